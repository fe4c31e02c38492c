"""Initialize a new model for another task with trained weights, train it, prune it, and quantize to int8.

tfopt run recipes/parameter_transfer.py --source model.keras --data photos/
"""

import tfopt

recipe = tfopt.Recipe(
    name="parameter_transfer",
    transfer=tfopt.transfer.ParameterTransfer(match="name"),
    stages=(
        tfopt.FineTune(epochs=12),
        tfopt.Prune(final_sparsity=0.5, epochs=6),
        tfopt.Quantize(epochs=3, learning_rate=2e-4),
    ),
    training=tfopt.Training(learning_rate=1e-3, horizontal_flip=True, shift=0.1),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
