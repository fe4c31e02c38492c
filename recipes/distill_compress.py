"""Compression with a teacher in every stage: what pruning and few bits cost, the teacher gives back.

4-bit weights with learned steps take the place of clusters: as few values, trained in one stage with int8 activations.
"""

import tfopt

recipe = tfopt.Recipe(
    name="distill_compress",
    stages=(
        tfopt.FineTune(epochs=34),
        tfopt.Prune(final_sparsity=0.6, distribution="erk", epochs=12),
        tfopt.Quantize(weight_bits=4, ranges="learned", epochs=8, learning_rate=5e-4),
    ),
    distillation=tfopt.Distillation(losses=(tfopt.Hinton(temperature=4.0),), views=6),
    training=tfopt.Training(learning_rate=2e-3, batch_size=128, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
