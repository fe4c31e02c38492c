"""Prune half the weights during training, then export int8 (Zhu & Gupta 2017, arXiv:1710.01878)."""

import tfopt

recipe = tfopt.Recipe(
    name="prune",
    stages=(tfopt.Prune(final_sparsity=0.5, epochs=6),),
    training=tfopt.Training(learning_rate=1e-3, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
