"""What stages promised of kernels, looked up in the `.tflite` that was written."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.errors import PromiseError
from tfopt.litert import LiteModel, Weight
from tfopt.stages.kernels import channel_axis, kernel
from tfopt.stages.promise import Promise


def verify_promises(lite: LiteModel, plain: Any, promises: Sequence[Promise], *, trained_ranges: bool) -> list[str]:
    """Check in the file what the stages promised of the kernels of `plain` (flat tf_keras).

    Returns notes on promises that hold per output channel only: the converter folds BatchNorm into the
    kernels, and scales of its own per channel make other values of equal weights. Training with `Quantize`
    avoids that, so `trained_ranges` asks for the full promise.

    Raises `PromiseError` naming layer and tensor.
    """
    if not promises:
        return []
    promised = {promise.layer for promise in promises}
    found = match_kernels(lite, [layer for layer in plain.layers if layer.name in promised])
    notes = []
    for promise in promises:
        weight = found[promise.layer]
        axis = weight.channel_axis or 0
        wrong = promise.broken(weight.values, axis)
        if wrong and not trained_ranges:
            weaker = promise.after_folding()
            if weaker != promise and not weaker.broken(weight.values, axis):
                notes.append(f"{promise.layer}: holds in each output channel of the file only ({wrong})")
                continue
        if wrong:
            raise PromiseError(
                f"The exported file breaks a promise: layer '{promise.layer}', tensor '{weight.tensor.name}': {wrong}."
            )
    return notes


def match_kernels(lite: LiteModel, layers: Any) -> dict[str, Weight]:
    """The file's weight tensor for each layer, found by shape and content, since names do not survive.

    BatchNorm folding multiplies each output channel by a factor; so channels are compared by direction.
    """
    weights = lite.weights()
    matches = {}
    for layer in layers:
        wanted = _directions(kernel(layer).numpy(), channel_axis(layer), type(layer).__name__)
        best, best_score = None, -1.0
        for weight in weights:
            if weight.channel_axis is None:
                continue
            given = _directions(weight.dequantized, weight.channel_axis, "")
            if given.shape != wanted.shape:
                continue
            score = float(np.mean(np.abs(np.sum(given * wanted, axis=1))))
            if score > best_score:
                best, best_score = weight, score
        # 0.9: coarse int8 rounding of PTQ turns a channel by far less, another layer's kernel is near 0.
        if best is None or best_score < 0.9:
            raise PromiseError(
                f"The kernel of layer '{layer.name}' was not found in the exported file "
                f"(best match {best_score:.2f}), so nothing can be promised of it."
            )
        matches[layer.name] = best
    return matches


def _directions(values: np.ndarray, axis: int, keras_layer: str) -> np.ndarray:
    """Kernel as (output channels, weights per channel), each row of length 1."""
    if keras_layer.startswith("Depthwise"):
        values, axis = values.reshape(*values.shape[:-2], -1), -1  # (h, w, channels x multiplier)
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    # A channel that is pruned away matches any other that is.
    rows[length[:, 0] == 0, 0] = 1.0
    return rows
