"""More models of the coverage table: the kinds that users report as broken, each with what makes it hard.

Each builder takes the package to build with, `keras` or `tf_keras`. Weights are random.
"""

from collections.abc import Callable
from typing import Any

CLASSES = 10


def causal_attention(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((12, 16))
    attended = layers.MultiHeadAttention(2, 8)(inputs, inputs, use_causal_mask=True)
    x = layers.LayerNormalization()(layers.Add()([inputs, attended]))
    return api.Model(inputs, layers.Dense(CLASSES)(x))


def masked_words(api: Any) -> Any:
    """Word 0 is padding, for the attention and for the average."""
    layers = api.layers
    words = api.Input((12,), dtype="int32")
    x = _embedded(api, words, 16)
    x = layers.MultiHeadAttention(2, 8)(x, x)
    return api.Model(words, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def _embedded(api: Any, words: Any, width: int) -> Any:
    """Return vectors as large as trained ones; Keras starts with values below 0.05."""
    spread = api.initializers.RandomUniform(-1.0, 1.0, seed=0)
    return api.layers.Embedding(50, width, mask_zero=True, embeddings_initializer=spread)(words)


def cross_attention(api: Any) -> Any:
    layers = api.layers
    query, value = api.Input((6, 16), name="query"), api.Input((10, 16), name="value")
    x = layers.MultiHeadAttention(2, 8)(query, value)
    return api.Model([query, value], layers.Dense(CLASSES)(layers.LayerNormalization()(x)))


def recurrent(make: Callable[[Any], Any], masked: bool = False) -> Callable[[Any], Any]:
    """Return a builder of a recurrent layer on 12 steps of 8 values, or of masked words."""

    def build(api: Any) -> Any:
        layers = api.layers
        if masked:
            inputs = api.Input((12,), dtype="int32")
            x = _embedded(api, inputs, 8)
        else:
            inputs = x = api.Input((12, 8))
        x = make(layers)(x)
        return api.Model(inputs, layers.Dense(CLASSES)(x[0] if isinstance(x, list | tuple) else x))

    return build


def encoder_decoder(api: Any) -> Any:
    """The decoder starts with the states of the encoder."""
    layers = api.layers
    source, target = api.Input((10, 6), name="source"), api.Input((5, 6), name="target")
    _, *states = layers.LSTM(12, return_state=True)(source)
    decoded = layers.LSTM(12, return_sequences=True)(target, initial_state=states)
    return api.Model([source, target], layers.Dense(6)(decoded))


def detection_head(api: Any) -> Any:
    """Boxes in pixels and scores from 0 to 1 in one output."""
    layers = api.layers
    inputs = api.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    boxes = layers.Rescaling(640.0)(layers.Conv2D(4, 1)(x))
    scores = layers.Conv2D(3, 1, activation="sigmoid")(x)
    return api.Model(inputs, layers.Reshape((16, 7))(layers.Concatenate()([boxes, scores])))


def raw_features(api: Any) -> Any:
    """Columns of scales from 0.01 to 10,000, brought to one by a Normalization."""
    layers = api.layers
    scales = [0.01, 1.0, 100.0, 10_000.0]
    inputs = api.Input((4,))
    x = layers.Rescaling(scales)(inputs)
    x = layers.Normalization(mean=[0.0] * 4, variance=[scale**2 for scale in scales])(x)
    return api.Model(inputs, layers.Dense(CLASSES)(layers.Dense(16, activation="relu")(x)))


def channel_shuffle(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = layers.Reshape((16, 16, 4, 4))(layers.Conv2D(16, 1, groups=4)(x))
    x = layers.Reshape((16, 16, 16))(layers.Permute((1, 2, 4, 3))(x))
    x = layers.Conv2D(16, 3, groups=4, padding="same", activation="relu")(x)
    return api.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def dilated(api: Any) -> Any:
    layers = api.layers
    inputs = x = api.Input((16, 16, 3))
    for rate in (1, 2, 4):
        x = layers.Conv2D(8, 3, dilation_rate=rate, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return api.Model(inputs, layers.Conv2D(3, 1)(x))


def causal_convolutions(api: Any) -> Any:
    layers = api.layers
    inputs = x = api.Input((32, 4))
    for rate in (1, 2, 4):
        x = layers.Conv1D(8, 3, dilation_rate=rate, padding="causal", activation="relu")(x)
    return api.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def dense_on_sequence(api: Any) -> Any:
    layers = api.layers
    inputs = api.Input((12, 6))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(16)(inputs)))
    return api.Model(inputs, layers.Dense(CLASSES)(x))


KINDS: dict[str, Callable[[Any], Any]] = {
    "Attention, causal mask": causal_attention,
    "Attention, padded words": masked_words,
    "Attention, two inputs": cross_attention,
    "LSTM, masked": recurrent(lambda layers: layers.LSTM(12), masked=True),
    "GRU, masked": recurrent(lambda layers: layers.GRU(12), masked=True),
    "LSTM, relu": recurrent(lambda layers: layers.LSTM(12, activation="relu")),
    "LSTM, no bias": recurrent(lambda layers: layers.LSTM(12, use_bias=False)),
    "LSTM, returns its states": recurrent(lambda layers: layers.LSTM(12, return_state=True)),
    "LSTM, two stacked": recurrent(lambda layers: lambda x: layers.LSTM(12)(layers.LSTM(12, return_sequences=True)(x))),
    "SimpleRNN": recurrent(lambda layers: layers.SimpleRNN(12)),
    "RNN of two cells": recurrent(lambda layers: layers.RNN([layers.GRUCell(12), layers.LSTMCell(12)])),
    "Encoder-decoder LSTM": encoder_decoder,
    "Detection head": detection_head,
    "Raw features": raw_features,
    "Channel shuffle, grouped": channel_shuffle,
    "Dilated convolutions": dilated,
    "Causal Conv1D, dilated": causal_convolutions,
    "Dense on a sequence": dense_on_sequence,
}
