"""Multiplications of files, against counts by hand."""

import keras
import numpy as np
import pytest

from tfopt.tflite.read.macs import macs_of
from tfopt.tflite.read.parts import Op
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.export import build_file

L = keras.layers


def model(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def attention():
    inputs = keras.Input((12, 8))
    return keras.Model(inputs, L.MultiHeadAttention(2, 4)(inputs, inputs))


COUNTS = {
    "convolution": (lambda: model((9, 8, 3), L.Conv2D(5, (3, 2))), 7 * 7 * 5 * 3 * 2 * 3),
    "strides": (lambda: model((8, 8, 3), L.Conv2D(5, 3, strides=2, padding="same")), 4 * 4 * 5 * 27),
    "groups": (lambda: model((8, 8, 4), L.Conv2D(8, 3, groups=2)), 36 * 8 * 9 * 2),
    "dilation": (lambda: model((8, 8, 3), L.Conv2D(4, 3, dilation_rate=2)), 16 * 4 * 27),
    "depthwise": (lambda: model((8, 8, 3), L.DepthwiseConv2D(3, depth_multiplier=2)), 36 * 6 * 9),
    "transposed": (lambda: model((4, 4, 3), L.Conv2DTranspose(5, 3, strides=2)), 16 * 3 * 9 * 5),
    "volumes": (lambda: model((6, 6, 6, 2), L.Conv3D(3, (3, 2, 1))), 4 * 5 * 6 * 3 * 6 * 2),
    "dense": (lambda: model((10,), L.Dense(7), L.Dense(3)), 70 + 21),
    "dense on a sequence": (lambda: model((4, 10), L.Dense(7)), 4 * 70),
    "attention": (attention, 4 * 12 * 8 * 8 + 2 * 2 * 12 * 12 * 4),
    "lstm": (lambda: model((12, 6), L.LSTM(8)), 12 * 4 * 8 * (6 + 8)),
    "none": (lambda: model((12,), L.ReLU()), 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counted_by_hand(name):
    build, expected = COUNTS[name]
    assert build_file(build(), FLOAT, proven=False).macs() == expected


def test_sizes_that_a_file_leaves_free_are_those_of_the_sample():
    inputs = keras.Input((None, None, 3))
    lite = build_file(keras.Model(inputs, L.Conv2D(4, 3)(inputs)), FLOAT, proven=False)
    for height, width in ((10, 7), (5, 6)):
        assert lite.macs(np.zeros((2, height, width, 3), "float32")) == (height - 2) * (width - 2) * 4 * 27


def test_loops_are_not_counted():
    lite = build_file(model((12, 6), L.GRU(8)), FLOAT, proven=False)
    assert any(op.name == "WHILE" for op in lite.ops()) and lite.macs() is None


def test_custom_operators_are_not_counted():
    one = Op(0, "CONV_2D", (0, 1), (2,))
    shapes = {0: (1, 8, 8, 3), 1: (4, 3, 3, 3), 2: (1, 6, 6, 4)}
    assert macs_of([(one, {})], shapes) == 36 * 4 * 27
    for name in ("MyBigConv", "FlexConv2D", "IF", "BUILTIN_999"):
        assert macs_of([(one, {}), (Op(1, name, (2,), (2,)), {})], shapes) is None
