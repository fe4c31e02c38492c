"""Remove channels until half of the multiplications are left (Fang et al. 2023, arXiv:2301.12900), then export int8."""

import tfopt

recipe = tfopt.Recipe(
    name="prune_channels",
    stages=(tfopt.PruneChannels(final_ratio=0.5, epochs=10),),
    training=tfopt.Training(learning_rate=1e-3, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
