"""Models of the coverage table: each builder takes the package to build with, `keras` or `tf_keras`.

The 14 families of `keras.applications` at full depth, with small inputs and ten classes, and the kinds of models
that TF-MOT's users ask about. Weights are random; BatchNormalization has random statistics. Small models output
logits: the softmax of an untrained model is nearly uniform and hides errors.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10


def application(name: str, size: int = 64, **arguments: Any) -> Callable[[Any], Any]:
    """Return a builder of `keras.applications.<name>`, `size` x `size` RGB, without its preprocessing."""

    def build(api: Any) -> Any:
        constructor = getattr(api.applications, name)
        return constructor(weights=None, input_shape=(size, size, 3), classes=CLASSES, **arguments)

    return build


def without_top(name: str, size: int = 32) -> Callable[[Any], Any]:
    """Build VGG without its head, which has nine tenths of the weights: nested base, average, Dense."""

    def build(api: Any) -> Any:
        constructor = getattr(api.applications, name)
        base = constructor(weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg")
        return api.Sequential([api.Input((size, size, 3)), base, api.layers.Dense(CLASSES)])

    return build


APPLICATIONS: dict[str, Callable[[Any], Any]] = {
    "ConvNeXt (Tiny)": application("ConvNeXtTiny"),
    "DenseNet (121)": application("DenseNet121"),
    "EfficientNet (B0)": application("EfficientNetB0"),
    "EfficientNetV2 (B0)": application("EfficientNetV2B0"),
    "Inception (V3)": application("InceptionV3", 75),
    "InceptionResNet (V2)": application("InceptionResNetV2", 75),
    "MobileNet": application("MobileNet", alpha=0.25),
    "MobileNetV2": application("MobileNetV2", alpha=0.35),
    "MobileNetV3 (Small)": application("MobileNetV3Small"),
    "NASNet (Mobile)": application("NASNetMobile"),
    "ResNet (50)": application("ResNet50"),
    "ResNetV2 (50)": application("ResNet50V2"),
    "VGG (16), nested": without_top("VGG16"),
    "Xception": application("Xception", 71),
}


def lstm(api: Any) -> Any:
    layers = api.layers
    return api.Sequential([api.Input((16, 8)), layers.LSTM(16), layers.Dense(CLASSES)])


def gru(api: Any) -> Any:
    layers = api.layers
    return api.Sequential([api.Input((16, 8)), layers.GRU(16), layers.Dense(CLASSES)])


def bidirectional(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((16, 8))
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(inputs)
    return api.Model(inputs, layers.TimeDistributed(layers.Dense(CLASSES))(x))


def text(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((20,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 16)(inputs))
    return api.Model(inputs, layers.Dense(CLASSES)(layers.Dense(16, activation="relu")(x)))


def transformer(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((12, 16))
    attended = layers.MultiHeadAttention(2, 8)(inputs, inputs)
    x = layers.LayerNormalization()(layers.Add()([inputs, attended]))
    fed = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, fed]))
    return api.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def conv1d(api: Any) -> Any:
    layers = api.layers
    return api.Sequential(
        [
            api.Input((32, 4)),
            layers.Conv1D(16, 5, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling1D(),
            layers.SeparableConv1D(16, 3, activation="relu"),
            layers.Conv1DTranspose(8, 3, strides=2),
            layers.GlobalMaxPooling1D(),
            layers.Dense(CLASSES),
        ]
    )


def unet(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((32, 32, 3))

    def block(x: Any, filters: int) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    a = block(inputs, 8)
    b = block(layers.MaxPooling2D()(a), 16)
    c = block(layers.MaxPooling2D()(b), 32)
    up = layers.Concatenate()([layers.Conv2DTranspose(16, 2, strides=2)(c), b])
    up = layers.Concatenate()([layers.UpSampling2D()(block(up, 16)), a])
    return api.Model(inputs, layers.Conv2D(3, 1)(block(up, 8)))


def two_inputs(api: Any) -> Any:
    layers = api.layers
    image, numbers = api.Input((16, 16, 3), name="image"), api.Input((5,), name="numbers")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    y = layers.Dense(8, activation="relu")(layers.Normalization(mean=[1.0] * 5, variance=[4.0] * 5)(numbers))
    merged = layers.Concatenate()([x, y])
    return api.Model(
        [image, numbers], [layers.Dense(CLASSES, name="kind")(merged), layers.Dense(1, name="size")(merged)]
    )


def batch_norm_patterns(api: Any) -> Any:
    """BatchNormalization first, after an activation, after Add and after Concatenate; a ReLU with two consumers."""
    layers = api.layers
    inputs = api.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Rescaling(1 / 255)(inputs))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", activation="relu")(x))
    y = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Add()([layers.BatchNormalization()(layers.ReLU()(y)), y])
    x = layers.Multiply()([layers.BatchNormalization()(x), layers.Activation("sigmoid")(x)])
    x = layers.BatchNormalization()(layers.Concatenate()([x, layers.Maximum()([x, y])]))
    x = layers.PReLU(shared_axes=[1, 2])(layers.SeparableConv2D(8, 3)(x))
    return api.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(layers.AveragePooling2D(2)(x))))


def operations(api: Any) -> Any:
    """Tensor arithmetic as people write it: `keras.ops` in Keras 3, TensorFlow functions in tf_keras."""
    layers = api.layers
    if hasattr(api, "ops"):
        ops, mean, stack = api.ops, api.ops.mean, api.ops.concatenate
    else:
        import tensorflow as tf

        ops, mean, stack = tf, tf.reduce_mean, tf.concat
    inputs = api.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs / 127.5 - 1.0)
    x = x * ops.sigmoid(x) + x
    x = stack([x[:, 1:-1, 1:-1], ops.maximum(x, 0.0)[:, 1:-1, 1:-1]], -1)
    x = mean(ops.square(x), (1, 2))
    return api.Model(inputs, layers.Dense(CLASSES)(ops.reshape(x, (-1, 4, 4))))


def deeply_nested(api: Any) -> Any:
    layers = api.layers
    inner = api.Sequential([api.Input((16, 16, 8)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()])
    middle = api.Sequential([api.Input((18, 18, 8)), layers.Conv2D(8, 3, activation="relu"), inner])
    head = api.Sequential([api.Input((14, 14, 8)), layers.Flatten(), layers.Dense(CLASSES)])
    return api.Sequential([api.Input((20, 20, 3)), layers.Conv2D(8, 3, activation="relu"), middle, head])


def subclassed(api: Any) -> Any:
    class Own(api.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = api.layers.Conv2D(8, 3), api.layers.BatchNormalization()
            self.pool, self.head = api.layers.GlobalAveragePooling2D(), api.layers.Dense(CLASSES)

        def call(self, inputs: Any, training: Any = None) -> Any:
            return self.head(self.pool(self.norm(self.conv(inputs), training=training)))

    model = Own()
    model(np.zeros((1, 16, 16, 3), "float32"))
    return model


ZOO: dict[str, Callable[[Any], Any]] = {
    "LSTM": lstm,
    "GRU": gru,
    "Bidirectional LSTM, TimeDistributed": bidirectional,
    "Embedding, text": text,
    "Transformer block": transformer,
    "Conv1D and relatives": conv1d,
    "U-Net": unet,
    "Two inputs, two outputs": two_inputs,
    "BatchNorm patterns": batch_norm_patterns,
    "keras.ops / tf functions": operations,
    "Nested three deep": deeply_nested,
    "Subclassed": subclassed,
}


def autoencoder(path: Path) -> Callable[[Any], Any]:
    """Return a builder for a Keras 2 file; Keras 3 gets a model with the same layers and weights."""

    def build(api: Any) -> Any:
        import tf_keras

        saved = tf_keras.models.load_model(path, compile=False)
        if api is tf_keras:
            return saved
        layers = [api.Input(saved.input_shape[1:])]
        layers += [getattr(api.layers, type(layer).__name__)(**_settings(layer)) for layer in saved.layers[1:]]
        model = api.Sequential(layers)
        model.set_weights(saved.get_weights())
        return model

    return build


def _settings(layer: Any) -> dict[str, Any]:
    config = layer.get_config()
    wanted = {"Dense": ("units", "activation"), "Activation": ("activation",), "BatchNormalization": ("epsilon",)}
    return {key: config[key] for key in wanted[type(layer).__name__]}


def randomize(model: Any, seed: int = 0) -> None:
    """Set random BatchNormalization statistics and scales, as after training, in place."""
    rng = np.random.default_rng(seed)
    for layer in layers_of(model):
        if type(layer).__name__ == "BatchNormalization":
            names = [variable.name.split(":")[0].split("/")[-1] for variable in layer.weights]
            drawn = {"beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3)}
            layer.set_weights(
                [
                    rng.uniform(*drawn.get(name, (0.7, 1.3)), size=value.shape)
                    for name, value in zip(names, layer.get_weights(), strict=True)
                ]
            )


def layers_of(model: Any) -> list[Any]:
    """Return all layers, including those of nested models."""
    found = []
    for layer in model.layers:
        found += layers_of(layer) if hasattr(layer, "layers") else [layer]
    return found
