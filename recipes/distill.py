"""Distill a larger model into a small one (Hinton et al. 2015, arXiv:1503.02531), then export int8."""

import tfopt

recipe = tfopt.Recipe(
    name="distill",
    stages=(tfopt.FineTune(epochs=30),),
    distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(temperature=4.0),)),
    training=tfopt.Training(learning_rate=2e-3, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
