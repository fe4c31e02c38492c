"""Make a model faster: half of the multiplications, then quantization-aware training for int8.

Give the model itself, or a better one, as --teacher: it keeps more of the accuracy.
"""

import tfopt

recipe = tfopt.Recipe(
    name="faster",
    stages=(
        tfopt.PruneChannels(final_ratio=0.5, epochs=10),
        tfopt.Quantize(epochs=2, learning_rate=2e-4),
    ),
    training=tfopt.Training(learning_rate=1e-3, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
