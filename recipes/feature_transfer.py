"""From a folder of photos to a phone: train a head on pretrained features, fine-tune, prune, and quantize with QAT.

tfopt run recipes/feature_transfer.py --source mobilenet.keras --data flowers/ --min-accuracy 0.85
"""

import tfopt

recipe = tfopt.Recipe(
    name="feature_transfer",
    transfer=tfopt.transfer.FeatureTransfer(),
    stages=(
        tfopt.FineTune(epochs=12, min_steps=300),
        tfopt.Prune(final_sparsity=0.5, epochs=12),
        tfopt.Quantize(epochs=4, learning_rate=1e-4),
    ),
    training=tfopt.Training(learning_rate=5e-4, horizontal_flip=True, shift=0.1),
)

if __name__ == "__main__":
    tfopt.run_recipe(recipe)
