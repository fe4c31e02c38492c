"""Choose 4 or 8 bits per layer by sensitivity, for the smallest file within one point of accuracy; then train."""

import tfopt

recipe = tfopt.Recipe(
    name="mixed_precision",
    stages=(tfopt.Quantize(max_drop=0.01, weight_steps="learned", epochs=4),),
    training=tfopt.Training(learning_rate=3e-4, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
