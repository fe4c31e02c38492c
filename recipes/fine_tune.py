"""Fine-tune a pretrained model on a new task as fastai does: the head alone, then all layers, lower ones slower.

tfopt run recipes/fine_tune.py --source mobilenet.keras --data flowers/
"""

import tfopt

recipe = tfopt.Recipe(
    name="fine_tune",
    transfer=tfopt.transfer.ParameterTransfer(),
    stages=(
        *tfopt.fine_tuning(frozen_epochs=5, epochs=20, learning_rate=1e-3, layer_decay=0.9),
        tfopt.Quantize(epochs=3, learning_rate=1e-4),
    ),
    training=tfopt.Training(learning_rate=5e-3, schedule="one_cycle", horizontal_flip=True, shift=0.1),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
