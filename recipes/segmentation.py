"""Train a small U-Net that finds the class of each pixel, and quantize it to int8 with quantization-aware training.

tfopt run recipes/segmentation.py --data cells/

The folder has images/ and masks/ with files of the same names. The model is a U-Net (Ronneberger et al. 2015,
arXiv:1505.04597) with padding and BatchNormalization. Masks move with their images when these are mirrored, turned and
resized; leave out vertical_flip for images with an up and down. Without --data it learns made-up cells.
"""

import tfopt

recipe = tfopt.Recipe(
    name="segmentation",
    stages=(tfopt.FineTune(epochs=20), tfopt.Quantize(epochs=3, learning_rate=2e-4)),
    training=tfopt.Training(
        learning_rate=3e-3,
        batch_size=8,
        horizontal_flip=True,
        vertical_flip=True,
        rotation=15,
        zoom=0.1,
        brightness=0.1,
    ),
)


def example_data():
    """Return 120 made-up images of 32x32 with bright cells of an uneven edge on a noisy ground, and their masks."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    masks = np.zeros((120, 32, 32), np.int32)
    for mask in masks:
        for _ in range(rng.integers(2, 5)):
            row, column, radius = rng.uniform(4, 28), rng.uniform(4, 28), rng.uniform(3, 7)
            angle = np.arctan2(rows - row, columns - column)
            edge = radius * (1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)))
            mask[np.hypot(rows - row, columns - column) < edge] = 1
    images = 90 + 60 * masks[..., None] + rng.normal(0, 30, (*masks.shape, 1))
    return tfopt.load_data((images.clip(0, 255).astype("uint8"), masks), preprocessing="unit")


def example_model(data):
    """Return an untrained U-Net with 16 to 128 channels.

    It halves images three times, so those whose sides are no multiples of 8 are padded, and its output is cropped.
    """
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers

    def twice(x, channels):
        for _ in range(2):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    x = given = keras.Input(data.input_shape)
    missing = [-side % 8 for side in data.input_shape[:2]]
    border = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
    if any(missing):
        x = layers.ZeroPadding2D(border)(x)
    aside = []
    for channels in (16, 32, 64):
        aside.append(twice(x, channels))
        x = layers.MaxPooling2D()(aside[-1])
    x = twice(x, 128)
    for skipped in reversed(aside):
        x = layers.Conv2DTranspose(skipped.shape[-1], 2, strides=2)(x)
        x = twice(layers.Concatenate()([skipped, x]), skipped.shape[-1])
    x = layers.Cropping2D(border)(x) if any(missing) else x
    return keras.Model(given, layers.Conv2D(data.num_classes, 1, activation="softmax")(x), name="unet")


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_data=example_data, example_model=example_model)
