"""Distill a ResNet-50 into a MobileNetV2, and quantize it to int8 with quantization-aware training.

tfopt run recipes/resnet_to_mobilenet.py --data cifar10/ --teacher resnet50.keras

Without --teacher, a ResNet-50 (He et al. 2015, arXiv:1512.03385) learns the data first, with a 3x3 stem and an eighth
of the filters, so that a CPU trains it. The student is MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) for images
of about 32 pixels. Without --data both learn scikit-learn's handwritten digits, enlarged.
"""

import tfopt

recipe = tfopt.Recipe(
    name="resnet_to_mobilenet",
    stages=(tfopt.FineTune(epochs=15), tfopt.Quantize(epochs=2, learning_rate=2e-4)),
    distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(temperature=4.0),)),
    training=tfopt.Training(learning_rate=4e-3, batch_size=64, horizontal_flip=True, shift=0.125),
)

teacher_recipe = tfopt.Recipe(
    name="resnet50",
    stages=(tfopt.FineTune(epochs=10),),
    training=tfopt.Training(learning_rate=2e-3, batch_size=64, horizontal_flip=True, shift=0.125),
)


def example_data():
    """Return the handwritten digits as gray RGB images of 32 pixels."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.kron(digits.images * (255 / 16), np.ones((1, 4, 4)))
    return tfopt.load_data(
        (np.repeat(pixels[..., None], 3, axis=-1).astype("uint8"), digits.target), preprocessing="unit"
    )


def example_model(data):
    """Return an untrained MobileNetV2."""
    return mobilenet_v2(data)


def example_teacher(data):
    """Return a ResNet-50 that has learned the data."""
    return tfopt.optimize(resnet50(data), teacher_recipe, data).model


def mobilenet_v2(data, alpha=0.35):
    """Return an untrained MobileNetV2 of width `alpha` that reduces images by 8 instead of 32."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers

    def normalized(layer, x):
        return layers.BatchNormalization(momentum=0.9)(layer(x))

    def wide(channels):  # a multiple of 8, at least 90 % of what alpha says
        rounded = max(8, int(channels * alpha + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * channels * alpha else rounded + 8

    x = given = keras.Input(data.input_shape)
    x = layers.ReLU(6)(normalized(layers.Conv2D(wide(32), 3, strides=2, padding="same", use_bias=False), x))
    table = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
    for expansion, channels, blocks, first in table:
        for strides in (first, *[1] * (blocks - 1)):
            y = x
            if expansion > 1:
                y = layers.ReLU(6)(normalized(layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False), y))
            depthwise = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)
            y = normalized(layers.Conv2D(wide(channels), 1, use_bias=False), layers.ReLU(6)(normalized(depthwise, y)))
            x = layers.Add()([x, y]) if x.shape == y.shape else y
    x = layers.ReLU(6)(normalized(layers.Conv2D(1280, 1, use_bias=False), x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(given, layers.Dense(data.num_classes, activation="softmax")(x), name="mobilenet_v2")


def resnet50(data, filters=8):
    """Return an untrained ResNet-50 with `filters` instead of 64, and a 3x3 stem that keeps the size of the images."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers

    def normalized(x, channels, size=1, strides=1):
        x = layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    x = given = keras.Input(data.input_shape)
    x = layers.ReLU()(normalized(x, filters, 3))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = filters * 2**stage
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(normalized(x, narrow))
            y = layers.ReLU()(normalized(y, narrow, 3, strides))
            shortcut = x if block else normalized(x, 4 * narrow, 1, strides)
            x = layers.ReLU()(layers.Add()([shortcut, normalized(y, 4 * narrow)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, layers.Dense(data.num_classes, activation="softmax")(x), name="resnet50")


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_teacher, example_data=example_data, example_model=example_model)
