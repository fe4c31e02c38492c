"""Multiplications of one sample by layer kind, against numbers by hand."""

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.surgery.channels.groups import channels_of
from tfopt.surgery.channels.rules import FREE_SIZE

L = keras.layers


def chain(shape, *layers, dtype="float32"):
    return lambda: keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def attention(steps, key_steps):
    query, value = keras.Input((steps, 8)), keras.Input((key_steps, 8))
    return keras.Model([query, value], L.MultiHeadAttention(2, 4, value_dim=3)(query, value))


def dot_attention():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    return keras.Model([query, value], L.Attention()([L.Dense(6)(query), L.Dense(6)(value)]))


def product():
    inputs = keras.Input((None, 6))
    return keras.Model(inputs, keras.ops.matmul(inputs, keras.ops.transpose(inputs, (0, 2, 1))))


def by_attention(query, value):
    projections = query * 8 * 2 * 4 + value * 8 * 2 * (4 + 3) + query * 2 * 3 * 8
    return projections + query * value * 2 * (4 + 3)


COUNTS = {
    "dense": (chain((10,), L.Dense(7)), 70),
    "dense on a sequence": (chain((4, 10), L.Dense(7)), 280),
    "convolution": (chain((9, 8, 3), L.Conv2D(5, (3, 2))), 7 * 7 * 5 * 6 * 3),
    "groups": (chain((8, 8, 4), L.Conv2D(8, 3, groups=2)), 36 * 8 * 9 * 2),
    "depthwise": (chain((8, 8, 3), L.DepthwiseConv2D(3, depth_multiplier=2)), 36 * 6 * 9),
    "separable": (chain((8, 8, 3), L.SeparableConv2D(5, 3)), 36 * (3 * 9 + 3 * 5)),
    "transposed": (chain((4, 4, 3), L.Conv2DTranspose(5, 3, strides=2)), 16 * 3 * 9 * 5),
    "einsum": (chain((4, 6), L.EinsumDense("abc,cde->abde", (None, 2, 3))), 4 * 6 * 2 * 3),
    "embedding": (chain((10,), L.Embedding(1000, 16), dtype="int32"), 0),
    "prelu": (chain((4, 6), L.PReLU()), 0),
    "steps": (chain((7, 6), L.TimeDistributed(L.Dense(8))), 7 * 48),
    "images over time": (chain((3, 8, 8, 2), L.TimeDistributed(L.Conv2D(4, 3))), 3 * 36 * 4 * 18),
    "lstm": (chain((12, 6), L.LSTM(8)), 12 * 4 * 8 * (6 + 8)),
    "gru": (chain((12, 6), L.GRU(8)), 12 * 3 * 8 * (6 + 8)),
    "simple": (chain((12, 6), L.SimpleRNN(8)), 12 * 8 * (6 + 8)),
    "both ways": (chain((12, 6), L.Bidirectional(L.LSTM(8))), 2 * 12 * 4 * 8 * (6 + 8)),
    "attention": (lambda: attention(5, 7), by_attention(5, 7)),
    "attention of free length": (lambda: attention(None, None), by_attention(FREE_SIZE, FREE_SIZE)),
    "dot attention": (dot_attention, (5 + 7) * 8 * 6 + 2 * 5 * 7 * 6),
    "product of free length": (product, FREE_SIZE * FREE_SIZE * 6),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiplications_by_hand(name):
    build, expected = COUNTS[name]
    assert channels_of(bridge.to_tf_keras(build())).macs() == expected


def test_a_lookup_does_not_hide_what_a_text_model_computes():
    """Of Embedding (20000, 32), Conv1D (64, 3) and Dense 2 on 24 words only the last two multiply."""
    model = chain(
        (24,), L.Embedding(20_000, 32), L.Conv1D(64, 3), L.GlobalAveragePooling1D(), L.Dense(2), dtype="int32"
    )
    channels = channels_of(bridge.to_tf_keras(model()))
    assert channels.macs() == 22 * 3 * 32 * 64 + 128
    removed = [int(root) for group in channels.groups for root in group.roots[: len(group) // 2]]
    assert channels.macs(removed) == 22 * 3 * 16 * 32 + 64
    assert len(removed) == 16 + 32 and np.all(np.diff(sorted(removed)) > 0)
