"""8-bit quantization-aware training (Jacob et al. 2017, arXiv:1712.05877)."""

import tfopt

recipe = tfopt.Recipe(
    name="quantize_aware",
    stages=(tfopt.Quantize(epochs=3),),
    training=tfopt.Training(learning_rate=3e-4, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
