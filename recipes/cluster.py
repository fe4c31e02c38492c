"""Leave 16 distinct weights in each kernel, then export int8 (Han et al. 2015, arXiv:1510.00149, section 3)."""

import tfopt

recipe = tfopt.Recipe(
    name="cluster",
    stages=(tfopt.Cluster(number_of_clusters=16, epochs=4),),
    training=tfopt.Training(learning_rate=5e-4, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
