"""4-bit weights and 8-bit activations without training: adaptive rounding on a few hundred unlabeled inputs."""

import tfopt

recipe = tfopt.Recipe(
    name="post_training",
    stages=(tfopt.PostTraining(weight_bits=4),),
    export=tfopt.Export(calibration_samples=1024, activation_ranges="mse"),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
