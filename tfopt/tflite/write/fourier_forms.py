"""Fourier transforms of complex numbers as products with matrices: LiteRT has only that of real ones, RFFT2D.

A complex tensor is taken apart where it was made of a real and an imaginary part, so that no operator of the file is
complex.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

LONGEST = 1024
"""Longest axis that is transformed; its matrices have the square of it."""
Parts = tuple[Any, Any]
"""(real, imaginary); the second is None where it is zero."""


def _parts(values: Any) -> Parts | None:
    """Return the parts that a complex tensor was made of, if it was."""
    made, inputs = values.op.type, list(values.op.inputs)
    if made == "Complex":
        return inputs[0], None if inputs[1].op.type == "ZerosLike" else inputs[1]
    if made == "Cast" and inputs[0].dtype.is_floating:
        return inputs[0], None
    return None


def _part(values: Any, *, imaginary: bool) -> Any:
    import tensorflow as tf

    parts = _parts(values)
    if parts is None:
        return None
    chosen = parts[imaginary]
    return tf.zeros_like(parts[0]) if chosen is None else tf.identity(chosen)


def _size(values: Any) -> Any:
    import tensorflow as tf

    parts = _parts(values)
    if parts is None:
        return None
    return tf.abs(parts[0]) if parts[1] is None else tf.sqrt(parts[0] * parts[0] + parts[1] * parts[1])


def _transformed(values: Any, *, axes: int, inverse: bool = False) -> Any:
    """Return the transform over the last `axes`: X_k = sum_n x_n exp(-2 pi i n k / N); inverse: +2 pi i, and / N."""
    import tensorflow as tf

    parts, lengths = _parts(values), values.shape[-axes:]
    if parts is None or not lengths.is_fully_defined() or max(lengths) > LONGEST:
        return None
    for axis, length in zip((-1, -2), reversed(lengths), strict=False):
        parts = _along(parts, axis, length, inverse)
    return tf.complex(parts[0], parts[1])


def _along(parts: Parts, axis: int, length: int, inverse: bool) -> Parts:
    import tensorflow as tf

    turns = np.outer(np.arange(length), np.arange(length)) % length / length
    scale = 1 / length if inverse else 1.0
    cosines = (scale * np.cos(2 * np.pi * turns)).astype(np.float32)
    sines = (scale * np.sin(2 * np.pi * turns)).astype(np.float32) * (1 if inverse else -1)

    def product(part: Any, matrix: Any) -> Any:
        return tf.matmul(part, matrix) if axis == -1 else _swapped(tf.matmul(_swapped(part), matrix))

    real, imaginary = parts
    if imaginary is None:
        return product(real, cosines), product(real, sines)
    return (
        product(real, cosines) - product(imaginary, sines),
        product(real, sines) + product(imaginary, cosines),
    )


def _swapped(values: Any) -> Any:
    import tensorflow as tf

    return tf.linalg.matrix_transpose(values)


FOURIER: dict[str, Callable[[Any], Any]] = {
    "ComplexAbs": _size,
    "FFT": functools.partial(_transformed, axes=1),
    "FFT2D": functools.partial(_transformed, axes=2),
    "IFFT": functools.partial(_transformed, axes=1, inverse=True),
    "IFFT2D": functools.partial(_transformed, axes=2, inverse=True),
    "Imag": functools.partial(_part, imaginary=True),
    "Real": functools.partial(_part, imaginary=False),
}
"""Of complex tensors, as `LACKING` of traced_forms."""
