"""Train a small network that classifies windows of a signal, and quantize it to int8 with quantization-aware training.

tfopt run recipes/signals.py --data heartbeats.npz

The .npz holds x (n, steps) or (n, steps, channels), such as heartbeats or the axes of an accelerometer, and the classes
y (n,). The model is three convolutions over time. Without --data it learns made-up vibrations.
"""

import tfopt

recipe = tfopt.Recipe(
    name="signals",
    stages=(tfopt.FineTune(epochs=40), tfopt.Quantize(epochs=4, learning_rate=2e-4)),
    training=tfopt.Training(learning_rate=4e-3, batch_size=32),
)


def example_data():
    """Return 600 made-up windows of two axes: calm, a slow vibration, a fast one, or knocks, in noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    steps, labels = np.arange(128) / 128, np.arange(600) % 4
    phases, levels = rng.uniform(0, 1, (2, 600, 1))
    cycles = np.array([0, 4, 12, 3])[labels][:, None] * rng.uniform(0.8, 1.2, (600, 1))
    waves = np.sin(2 * np.pi * (cycles * steps + phases)) * (0.5 + levels)
    waves = np.where(labels[:, None] == 3, np.maximum(waves, 0) ** 8, waves)
    axes = np.stack([waves, -0.5 * waves], axis=-1) * (labels > 0)[:, None, None]
    return tfopt.load_data((axes + rng.normal(0, 0.2, axes.shape), labels))


def example_model(data):
    """Return an untrained network with about 11,000 weights for windows (steps,) or (steps, channels)."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    flat = len(data.input_shape) == 1
    chain = [keras.Input(data.input_shape), *([layers.Reshape((-1, 1))] if flat else []), layers.BatchNormalization()]
    for filters in (16, 32, 32):
        chain.append(layers.Conv1D(filters, 7, strides=2, padding="same", use_bias=False))
        chain += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    chain += [layers.GlobalAveragePooling1D(), layers.Dropout(0.2)]
    return keras.Sequential([*chain, layers.Dense(data.num_classes, activation="softmax")])


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_data=example_data, example_model=example_model)
