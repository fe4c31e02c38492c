"""Train a small network that recognizes spoken words, and quantize it to int8 with quantization-aware training.

tfopt run recipes/spoken_digits.py --data recordings/

The folder has one folder of recordings per word, directly or below train and test. The model is a depthwise-separable
network on log-mel spectrograms (DS-CNN: Zhang et al. 2017, arXiv:1711.07128). Without --data it learns made-up tones.
"""

import tfopt

recipe = tfopt.Recipe(
    name="spoken_digits",
    stages=(tfopt.FineTune(epochs=40), tfopt.Quantize(epochs=4, learning_rate=2e-4)),
    training=tfopt.Training(
        learning_rate=4e-3, batch_size=32, shift=0.1, noise=0.1, time_mask=0.1, frequency_mask=0.15
    ),
)


def example_data():
    """Return 400 made-up recordings of half a second: tones that rise, fall, stay or beat, in noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    time, labels = np.arange(4000) / 8000, np.arange(400) % 4
    starts = rng.uniform(400, 1200, (400, 1))
    slopes = np.array([1500, -1000, 0, 0])[labels][:, None] * rng.uniform(0.7, 1.3, (400, 1))
    tones = np.sin(2 * np.pi * (starts * time + slopes * time**2 / 2))
    tones *= np.where(labels[:, None] == 3, np.sin(2 * np.pi * 6 * time) ** 2, 1)
    waves = 0.3 * tones + rng.normal(0, 0.03, tones.shape)
    return tfopt.load_data((waves.clip(-1, 1), labels), preprocessing=tfopt.inputs.Sound(rate=8000))


def example_model(data):
    """Return an untrained network for spectrograms (frames, bands, 1), with about 14,000 weights."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers

    def normalized(layer):
        return [layer, layers.BatchNormalization(momentum=0.9), layers.ReLU()]

    blocks = [normalized(layers.Conv2D(48, (9, 5), strides=2, padding="same", use_bias=False))]
    for _ in range(4):
        blocks.append(normalized(layers.DepthwiseConv2D(3, padding="same", use_bias=False)))
        blocks.append(normalized(layers.Conv2D(48, 1, use_bias=False)))
    return keras.Sequential(
        [
            keras.Input(data.input_shape),
            layers.BatchNormalization(),
            *[layer for block in blocks for layer in block],
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(data.num_classes, activation="softmax"),
        ]
    )


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_data=example_data, example_model=example_model)
