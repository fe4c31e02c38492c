"""Train a model's architecture at three quarters of its width from scratch for another task, then quantize to int8.

tfopt run recipes/structure_transfer.py --source model.keras --data photos/
"""

import tfopt

recipe = tfopt.Recipe(
    name="structure_transfer",
    transfer=tfopt.transfer.StructureTransfer(width=0.75),
    stages=(
        tfopt.FineTune(epochs=30),
        tfopt.Quantize(epochs=3, learning_rate=2e-4),
    ),
    training=tfopt.Training(learning_rate=2e-3, horizontal_flip=True, shift=0.1),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
