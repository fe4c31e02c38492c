"""Convolutions as matrix products: the input patches at single output positions."""

from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of


def places(layer: Any, shape: tuple[int, ...], count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return random output positions of `layer` as indices along all axes except the last.

    Args:
        layer: Dense or a convolution.
        shape: of its input, (n, ..., channels).
        count: number of positions; fewer are returned if there are fewer.
        rng: the source of randomness.

    Returns:
        One index array per axis; positions do not repeat.
    """
    outputs = (shape[0], *(size for size, _ in _outputs_and_padding(layer, shape)))
    total = int(np.prod(outputs))
    return np.unravel_index(rng.choice(total, min(count, total), replace=False), outputs)


def patches(layer: Any, inputs: np.ndarray, where: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the input patches of the outputs at `where`, (len(where[0]), kernel positions, input channels)."""
    sizes, strides, dilations = _geometry(layer, inputs.ndim - 2)
    padding = [pad for _, pad in _outputs_and_padding(layer, inputs.shape)]
    padded = np.pad(inputs, [(0, 0), *padding, (0, 0)])
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=True)]
    axes = tuple(range(1, inputs.ndim - 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=axes)  # (n, ..., channels, *extents)
    dilated: tuple[Any, ...] = (..., *(slice(None, None, dilation) for dilation in dilations))
    starts = (index * stride for index, stride in zip(where[1:], strides, strict=True))
    seen = windows[dilated][(where[0], *starts)]
    return np.asarray(np.moveaxis(seen, 1, -1)).reshape(len(seen), -1, inputs.shape[-1])


def _geometry(layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return kernel size, strides and dilation; a Dense layer is a convolution of size 1."""
    if facts_of(layer).family == "dense":
        return (1,) * rank, (1,) * rank, (1,) * rank
    return tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate)


def _outputs_and_padding(layer: Any, shape: tuple[int, ...]) -> list[tuple[int, tuple[int, int]]]:
    """Return, for each spatial axis, the number of outputs and the zero padding before and after."""
    found, mode = [], getattr(layer, "padding", "valid")
    for size, kernel, stride, dilation in zip(shape[1:-1], *_geometry(layer, len(shape) - 2), strict=True):
        extent = (kernel - 1) * dilation + 1
        if mode == "same":
            outputs = -(-size // stride)
            zeros = max((outputs - 1) * stride + extent - size, 0)
            before = zeros // 2
        else:
            zeros = before = extent - 1 if mode == "causal" else 0
            outputs = (size + zeros - extent) // stride + 1
        found.append((outputs, (before, zeros - before)))
    return found
