"""Train 4-bit weights with learned steps (LSQ, Esser et al. 2020, arXiv:1902.08153) and 8-bit activations."""

import tfopt

recipe = tfopt.Recipe(
    name="low_bit",
    stages=(tfopt.Quantize(weight_bits=4, weight_steps="learned", epochs=8),),
    training=tfopt.Training(learning_rate=5e-4, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
