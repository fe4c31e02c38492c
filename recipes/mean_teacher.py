"""Compress with 10 % of the labels: the average of the model's past weights teaches it on the other images
(Tarvainen & Valpola 2017, arXiv:1703.01780).
"""

import tfopt

recipe = tfopt.Recipe(
    name="mean_teacher",
    stages=(
        tfopt.Prune(final_sparsity=0.7, epochs=8),
        tfopt.Quantize(epochs=3, learning_rate=3e-4),
    ),
    distillation=tfopt.MeanTeacher(labeled=0.1),
    training=tfopt.Training(learning_rate=1e-3, horizontal_flip=True, shift=0.125),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
