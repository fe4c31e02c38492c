"""Deep compression with a teacher in every stage, to recover what pruning, clustering and int8 cost."""

import tfopt

recipe = tfopt.Recipe(
    name="distill_compress",
    stages=(
        tfopt.FineTune(epochs=34),
        tfopt.Prune(final_sparsity=0.72, distribution="erk", epochs=14),
        tfopt.Cluster(number_of_clusters=16, epochs=3, learning_rate=2e-4),
        tfopt.Quantize(epochs=5, learning_rate=2e-4),
    ),
    distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(temperature=4.0),), views=6),
    training=tfopt.Training(learning_rate=2e-3, batch_size=128, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
