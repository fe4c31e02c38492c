"""Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

Rounded weights shift the mean of each output channel of a layer. Subtracting this constant from an existing bias costs
nothing.
"""

from typing import Any

import numpy as np

from tfopt.bridge import clone
from tfopt.stages.kernels.layer_kinds import activation_of, is_linear_layer
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.posttraining.observing import inputs_of, linear_part
from tfopt.stages.quantize.posttraining.wiring import Wiring, is_channelwise_norm


def bias_corrected(quantized: Any, reference: Any, samples: Any) -> Any:
    """Return a copy of `quantized` whose layers have the same mean outputs over `samples` as those of `reference`.

    Layers whose kernels differ are corrected from input to output: the mean error of each output channel, before the
    activation and after the corrections so far, is subtracted from the bias, or else added to the moving mean of the
    BatchNormalization that follows. Layers with neither, layers that do not own a kernel themselves (recurrent,
    attention) and layers whose bias is not one number per output channel do not change.

    Args:
        quantized: a flat tf_keras model; not changed.
        reference: the same model before its kernels were rounded; not changed.
        samples: typical inputs, float32 (n, ...), or a list, tuple or dict of arrays; a few hundred suffice.

    Returns:
        A new model.
    """
    corrected, exact = clone(quantized), clone(reference)
    wiring = Wiring(corrected)
    for layer in corrected.layers:
        found = _constant(layer, wiring)
        if found is not None and _differs(layer, exact.get_layer(layer.name)):
            weight, sign = found
            error = _mean_error(corrected, exact, layer.name, samples)
            weight.assign(np.asarray(weight.numpy() + sign * error, np.float32))
    return corrected


def _constant(layer: Any, wiring: Wiring) -> tuple[Any, int] | None:
    """Return the weight that corrects `layer` and the sign with which the error is added to it, or None."""
    if not is_linear_layer(layer):
        return None
    output = layer.get_output_at(0)
    if not hasattr(output, "shape"):  # several outputs
        return None
    channels = (output.shape[-1],)
    if getattr(layer, "use_bias", True) and getattr(layer, "bias", None) is not None:
        return (layer.bias, -1) if tuple(layer.bias.shape) == channels else None
    norm = wiring.behind(layer)
    if norm is not None and is_channelwise_norm(norm) and activation_of(layer) == "linear":
        return norm.moving_mean, 1
    return None


def _differs(layer: Any, other: Any) -> bool:
    pairs = zip(kernels(layer), kernels(other), strict=True)
    return any(not np.array_equal(mine.values, yours.values) for mine, yours in pairs)


def _mean_error(corrected: Any, exact: Any, name: str, samples: Any) -> np.ndarray:
    """Return the mean error before the activation, float64, per output channel."""
    total, count = np.zeros(1), 0
    layers = corrected.get_layer(name), exact.get_layer(name)
    for inputs in inputs_of((corrected, exact), name, samples):
        mine, yours = (linear_part(layer, x).numpy() for layer, x in zip(layers, inputs, strict=True))
        error = (mine.astype(np.float64) - yours).reshape(-1, mine.shape[-1])
        total, count = total + error.sum(axis=0), count + len(error)
    return total / count
