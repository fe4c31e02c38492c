"""Choose the steps of symmetric integer grids for kernels, per channel.

A grid of n bits holds step * k for the integers |k| <= 2^(n-1) - 1. A step that reaches the largest weight clips
nothing, but rounds the many small weights coarsely; a smaller one clips some and rounds the rest finely.
"""

import math
from collections.abc import Callable

import numpy as np

from tfopt.errors import ModelError, RecipeError

BITS = range(2, 9)

# The smallest step: an all-zero channel needs one too, and no step may underflow to zero.
_TINY = float(np.finfo(np.float32).tiny)
# Reaches to try, as fractions of the largest weight. A little more than 1 can be best: the last level then lies beyond
# the largest weight, but the levels below it fit better.
_FRACTIONS = np.linspace(0.02, 1.1, 109)
_REFINEMENTS = 20
_OCTAV_ITERATIONS = 100


def levels(bits: int) -> int:
    """Return the largest integer of a grid of `bits` bits: 1, 3, 7, 15, 31, 63 or 127.

    Raises:
        RecipeError: `bits` is not in 2 to 8.
    """
    if bits not in BITS:
        raise RecipeError(f"Expected 2 to 8 bits for the weights of a kernel; got {bits!r}.")
    return int(2 ** (bits - 1) - 1)


def steps(kernel: np.ndarray, bits: int, axes: tuple[int, ...], method: str) -> np.ndarray:
    """Return the steps of the grid for `kernel`.

    Args:
        kernel: weights, float, of any shape.
        bits: 2 to 8.
        axes: the axes, negative, whose indices have separate steps; () for one step for all weights.
        method: "max" reaches the largest weight. "mse" searches for the least squared error of rounding and clipping.
            "octav" has the least error if rounding is modeled as uniform noise (Sakr et al. 2022, arXiv:2206.06501,
            eq. 6), found by fixed-point iteration.

    Returns:
        float32, positive, with the rank of `kernel` and size 1 along all axes except `axes`.

    Raises:
        RecipeError: `bits` or `method` is not one of those above.
        ModelError: a weight is not finite.
    """
    if method not in METHODS:
        raise RecipeError(f"Expected weight_steps to be one of {', '.join(map(repr, METHODS))}; got {method!r}.")
    if not np.isfinite(kernel).all():
        raise ModelError("Expected finite weights in a kernel; got NaN or infinity. Was the training unstable?")
    top, weights = levels(bits), np.asarray(kernel, np.float64)
    others = tuple(axis for axis in range(weights.ndim) if axis - weights.ndim not in axes)
    found = METHODS[method](weights, top, others)
    return np.asarray(np.maximum(found, _TINY), np.float32)


def fixed_point_step(kernel: np.ndarray, bits: int, fractional_bits: int | None = None) -> float:
    """Return 2^-p, the step of weights round(w 2^p) / 2^p with p fractional bits.

    Args:
        kernel: weights, float, of any shape.
        bits: 2 to 8.
        fractional_bits: p, negative for steps above 1; None for the largest p that clips no weight of `kernel` by more
            than half a step.

    Raises:
        RecipeError: `bits` is not in 2 to 8.
    """
    top, largest = levels(bits), float(np.abs(kernel).max(initial=0))
    if fractional_bits is None:
        fractional_bits = math.floor(math.log2((top + 0.5) / largest)) if largest > 0 else 0
    return 2.0**-fractional_bits


def affine_integers(weights: np.ndarray, bits: int, axes: tuple[int, ...] = ()) -> tuple[np.ndarray, ...]:
    """Return affine integers round(w * scale + bias), from 0 for the smallest weight to 2^bits - 1 for the largest.

    A weight w is about (integer - bias) / scale (Jacob et al. 2017, arXiv:1712.05877, equation 1, in which 1 / scale is
    S and bias is Z). LiteRT's integer operators accept symmetric weights only; this is for other runtimes and for
    packing.

    Args:
        weights: float, of any shape.
        bits: 2 to 8.
        axes: the axes, negative, whose indices have separate scales; () for one scale for all weights.

    Returns:
        The integers, uint8 of the shape of `weights`; scale and bias, float64 with size 1 along all axes except `axes`.

    Raises:
        RecipeError: `bits` is not in 2 to 8.
    """
    levels(bits)
    exact = np.asarray(weights, np.float64)
    others = tuple(axis for axis in range(exact.ndim) if axis - exact.ndim not in axes)
    low, high = exact.min(axis=others, keepdims=True), exact.max(axis=others, keepdims=True)
    scale = (2**bits - 1) / np.maximum(high - low, _TINY)
    return np.rint((exact - low) * scale).astype(np.uint8), scale, -low * scale


def on_grid(kernel: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    """Return the integers k whose step * k is nearest to `kernel`, clipped; int8. Ties go to the even integer."""
    top = levels(bits)
    return _rounded(np.asarray(kernel, np.float64), steps, top).astype(np.int8)


def _of_max(weights: np.ndarray, top: int, others: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.abs(weights).max(axis=others, keepdims=True) / top)


def _of_mse(weights: np.ndarray, top: int, others: tuple[int, ...]) -> np.ndarray:
    largest = np.maximum(_of_max(weights, top, others), _TINY)
    best: np.ndarray = largest
    least = np.full(largest.shape, np.inf)
    for fraction in _FRACTIONS:
        tried = np.maximum(largest * fraction, _TINY)
        error = ((weights - _rounded(weights, tried, top) * tried) ** 2).sum(axis=others, keepdims=True)
        best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return _refined(weights, best, top, others)


def _refined(weights: np.ndarray, best: np.ndarray, top: int, others: tuple[int, ...]) -> np.ndarray:
    """Alternate between the best step for the integers and the nearest integers for the step; the error only falls."""
    for _ in range(_REFINEMENTS):
        integers = _rounded(weights, best, top)
        squares = (integers**2).sum(axis=others, keepdims=True)
        fitted = (weights * integers).sum(axis=others, keepdims=True) / np.maximum(squares, 1)
        fitted = np.where(fitted > 0, fitted, best)
        if np.array_equal(fitted, best):
            break
        best = fitted
    return best


def _of_octav(weights: np.ndarray, top: int, others: tuple[int, ...]) -> np.ndarray:
    """Minimize the noise s^2 / (12 top^2) of each rounded weight plus (|w| - s)^2 of each clipped one over the reach s.

    Zeros are exact on every grid and add no noise. The paper's grid has 2^n levels, hence its 4^-n / 3.
    """
    noise, sizes = 1 / (12 * top**2), np.abs(weights)
    count = np.count_nonzero(sizes, axis=others, keepdims=True)
    largest = sizes.max(axis=others, keepdims=True)
    reach = sizes.sum(axis=others, keepdims=True) / np.maximum(count, 1)
    for _ in range(_OCTAV_ITERATIONS):
        clipped = (sizes >= reach) & (sizes > 0)
        many = clipped.sum(axis=others, keepdims=True)
        total = np.where(clipped, sizes, 0).sum(axis=others, keepdims=True)
        # Stay within the largest weight; beyond it nothing is clipped, and the next reach would be zero.
        following = np.minimum(total / np.maximum(many + noise * (count - many), _TINY), largest)
        if np.allclose(following, reach, rtol=1e-9, atol=0):
            break
        reach = following
    return np.asarray(reach / top)


def _rounded(weights: np.ndarray, steps: np.ndarray, top: int) -> np.ndarray:
    return np.asarray(np.clip(np.rint(weights / steps), -top, top))


METHODS: dict[str, Callable[[np.ndarray, int, tuple[int, ...]], np.ndarray]] = {
    "max": _of_max,
    "mse": _of_mse,
    "octav": _of_octav,
}
