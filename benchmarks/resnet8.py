"""MLPerf Tiny's ResNet-8 for CIFAR-10 (78,666 parameters), untrained, in either Keras."""

from typing import Any

FILTERS = (16, 32, 64)


def resnet8(package: Any, seed: int = 0) -> Any:
    """Return the model: (32, 32, 3) in 0..255 -> 10 probabilities; `package` is `keras` or `tf_keras`.

    The architecture of github.com/mlcommons/tiny (image classification): He initialization, L2 of 1e-4 on kernels.
    Layers for hints: "stack_1", "stack_2", "stack_3" (outputs of the residual blocks), "pool".
    """
    layers, package_seed = package.layers, package.utils.set_random_seed
    package_seed(seed)

    def conv(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        regularizer = package.regularizers.L2(1e-4)
        return layers.Conv2D(
            filters, size, strides, padding="same", kernel_initializer="he_normal", kernel_regularizer=regularizer
        )(x)

    def normal(x: Any, *, relu: bool = True) -> Any:
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    inputs = package.Input((32, 32, 3))
    x = normal(conv(inputs, FILTERS[0]))
    for number, filters in enumerate(FILTERS):
        strides = 1 if number == 0 else 2
        y = normal(conv(x, filters, strides=strides))
        y = normal(conv(y, filters), relu=False)
        x = conv(x, filters, 1, strides) if strides > 1 else x
        x = layers.ReLU(name=f"stack_{number + 1}")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, activation="softmax", kernel_initializer="he_normal", name="classes")(x)
    return package.Model(inputs, outputs, name="resnet8")
