"""Train an autoencoder whose error shows anomalies, and quantize it to int8 with quantization-aware training.

tfopt run recipes/anomaly.py --data parts/ --task reconstruction

The folder has one folder called normal (or good, ok, healthy) and others with anomalies, which only the test uses. The
model squeezes its input through 8 numbers (Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647). Without --data it
learns handwritten ones, and tells all other digits from them.
"""

import tfopt

recipe = tfopt.Recipe(
    name="anomaly",
    stages=(tfopt.FineTune(epochs=40), tfopt.Quantize(epochs=5, learning_rate=2e-4)),
    training=tfopt.Training(learning_rate=3e-3, batch_size=32),
)


def example_data():
    """Return scikit-learn's handwritten digits; ones are normal, all others are anomalies."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, other = (digits.images / 16)[..., None], (digits.target != 1).astype(int)
    return tfopt.load_data((pixels, other), task="reconstruction")


def example_model(data):
    """Return an untrained autoencoder of dense layers."""
    import math

    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    width = math.prod(data.input_shape)
    hidden = [layers.Dense(size, activation="relu") for size in (64, 8, 64)]
    ending = [layers.Dense(width), layers.Reshape(data.input_shape)]
    return keras.Sequential([keras.Input(data.input_shape), layers.Flatten(), *hidden, *ending])


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_data=example_data, example_model=example_model)
