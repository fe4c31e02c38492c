"""Deep compression (Han et al. 2015, arXiv:1510.00149): prune, cluster, quantize.

The deflated size in the report stands for their third step, entropy coding.
"""

import tfopt

recipe = tfopt.Recipe(
    name="deep_compression",
    stages=(
        tfopt.Prune(final_sparsity=0.6, distribution="erk", epochs=6),
        tfopt.Cluster(number_of_clusters=16, epochs=2, learning_rate=2e-4),
        tfopt.Quantize(epochs=2, learning_rate=2e-4),
    ),
    training=tfopt.Training(learning_rate=5e-4, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
