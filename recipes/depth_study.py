"""Find how many layers are worth transferring: cut the source at several depths, train, and compress the best network.

Writes the curve of Yosinski et al. 2014 (arXiv:1411.1792) to depth_study.png beside the model.

tfopt run recipes/depth_study.py --source model.keras --data photos/ --feature-cache cache/
"""

import tfopt

recipe = tfopt.Recipe(
    name="depth_study",
    transfer=tfopt.transfer.DepthStudy(places=4, epochs=20),
    stages=(
        tfopt.Prune(final_sparsity=0.5, epochs=6),
        tfopt.Quantize(epochs=3, learning_rate=2e-4),
    ),
    training=tfopt.Training(learning_rate=1e-3),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
