"""Fourier transforms become products with matrices. Expected values: numpy.fft in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import Export
from tfopt.tflite.settings import FLOAT

ops = keras.ops


def both(values):
    return tf.concat([tf.math.real(values), tf.math.imag(values)], axis=-1)


def complex_of(x):
    return tf.complex(x[..., :4], x[..., 4:])


CASES = {
    "fft": (lambda x: both(tf.signal.fft(complex_of(x))), lambda z: np.fft.fft(z)),
    "fft2d": (lambda x: both(tf.signal.fft2d(complex_of(x))), lambda z: np.fft.fft2(z)),
    "ifft": (lambda x: both(tf.signal.ifft(complex_of(x))), lambda z: np.fft.ifft(z)),
    "ifft2d": (lambda x: both(tf.signal.ifft2d(complex_of(x))), lambda z: np.fft.ifft2(z)),
    "there and back": (lambda x: both(tf.signal.ifft2d(tf.signal.fft2d(complex_of(x)))), lambda z: z),
}


def made(function, shape):
    return keras.Sequential([keras.Input(shape), keras.layers.Lambda(function, output_shape=shape)])


@pytest.mark.parametrize("name", CASES)
def test_transforms_of_complex_numbers(name):
    function, exact = CASES[name]
    x = np.random.default_rng(0).normal(size=(40, 6, 8)).astype("float32")
    lite = tfopt.export_tflite(made(function, (6, 8)), None, FLOAT)
    expected = exact((x[..., :4] + 1j * x[..., 4:]).astype(complex))
    np.testing.assert_allclose(lite.predict(x), np.concatenate([expected.real, expected.imag], -1), atol=1e-5)


REAL_ONES = {
    "keras.ops": (lambda x: ops.fft2((x, ops.zeros_like(x)))[0], np.real),
    "tf": (lambda x: tf.math.real(tf.signal.fft2d(tf.cast(x, tf.complex64))), np.real),
    "size": (lambda x: tf.abs(tf.signal.fft2d(tf.cast(x, tf.complex64))), np.abs),
}


@pytest.mark.parametrize("name", REAL_ONES)
@pytest.mark.parametrize("form", [FLOAT, Export(mixed=False)], ids=["float", "int8"])
def test_mixing_words_by_a_transform(name, form):
    """FNet (Lee-Thorp et al. 2021) uses the real part."""
    function, part = REAL_ONES[name]
    x = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")
    lite = tfopt.export_tflite(made(function, (6, 8)), None, form, representative_data=x)
    expected = part(np.fft.fft2(x.astype(float)))
    assert np.mean((lite.predict(x) - expected) ** 2) < 5e-3 * expected.var()
    assert not any("FFT" in op.name for op in lite.ops())
