"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, section 4.1).

A channel between two linear layers can be scaled down in the first and up in the second without changing the model,
even with a ReLU in between. Equal ranges on both sides keep small channels from being lost among larger ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.bridge import clone
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.layer_kinds import activation_of
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.posttraining.wiring import Wiring, gain_and_offset, is_channelwise_norm

_ROUNDS, _CONVERGED = 100, 1e-4


@dataclass(frozen=True, eq=False)
class _Pair:
    first: Any
    norms: tuple[Any, ...]  # BatchNormalizations between the two
    second: Any


def equalized(model: Any) -> tuple[Any, list[tuple[str, str]]]:
    """Return a copy of `model` that computes the same, with equal weight ranges on both sides of each channel.

    Args:
        model: a flat tf_keras model, channels last; not changed.

    Returns:
        The copy, and the names of the layers of each pair: Dense, convolutions and depthwise convolutions with only
        BatchNormalization, (leaky) ReLU, pooling, padding and dropout in between.
    """
    copy = clone(model)
    pairs = _pairs(copy)
    weights = {layer: kernels(layer)[0].values.astype(np.float64) for p in pairs for layer in (p.first, p.second)}
    scales = [np.ones(1) for _ in pairs]
    for _ in range(_ROUNDS):  # a layer may be the second of one pair and the first of another
        moved = 0.0
        for number, pair in enumerate(pairs):
            scale = _scale(pair, weights)
            _outputs(pair.first, weights[pair.first])[...] /= scale
            _inputs(weights[pair.second])[...] *= scale[:, None]
            scales[number] = scales[number] * scale
            moved = max(moved, float(np.abs(np.log(scale)).max()))
        if moved < _CONVERGED:
            break
    for layer, values in weights.items():
        kernels(layer)[0].variable.assign(values.astype(np.float32))
    for pair, scale in zip(pairs, scales, strict=True):
        _divide_additions(pair, scale)
    return copy, [(pair.first.name, pair.second.name) for pair in pairs]


def _pairs(model: Any) -> list[_Pair]:
    wiring = Wiring(model)
    return [pair for layer in model.layers if (pair := _pair(layer, wiring)) is not None]


def _pair(first: Any, wiring: Wiring) -> _Pair | None:
    if not facts_of(first).is_patch_product or activation_of(first) not in ("linear", "relu"):
        return None
    norms, layer = [], wiring.behind(first)
    while layer is not None and _is_scalable(layer):
        norms += [layer] if is_channelwise_norm(layer) else []
        layer = wiring.behind(layer)
    if layer is None or not facts_of(layer).is_patch_product or getattr(layer, "groups", 1) != 1:
        return None
    return _Pair(first, tuple(norms), layer)


def _is_scalable(layer: Any) -> bool:
    facts = facts_of(layer)
    if facts.family == "activation":
        return activation_of(layer) in ("linear", "relu")
    return facts.scalable or is_channelwise_norm(layer)


def _scale(pair: _Pair, weights: dict[Any, np.ndarray]) -> np.ndarray:
    """Return s = sqrt(r1 r2) / r2 per channel (eq. 11); r is the largest weight, with BatchNormalization folded."""
    first = np.abs(_outputs(pair.first, weights[pair.first])).max(axis=0)
    for norm in pair.norms:
        first = first * np.abs(gain_and_offset(norm)[0])
    second = np.abs(_inputs(weights[pair.second])).max(axis=(0, 2))
    usable = (first > 0) & (second > 0)  # an unconnected channel has no range
    return np.sqrt(np.where(usable, first, 1) / np.where(usable, second, 1))


def _outputs(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """Return a view of `kernel` as (weights, output channels)."""
    channels = kernel.shape[-2] * kernel.shape[-1] if facts_of(layer).family == "depthwise" else kernel.shape[-1]
    return kernel.reshape(-1, channels)


def _inputs(kernel: np.ndarray) -> np.ndarray:
    """Return a view of `kernel` as (positions, input channels, outputs of each)."""
    return kernel.reshape(-1, *kernel.shape[-2:])


def _divide_additions(pair: _Pair, scale: np.ndarray) -> None:
    """Divide the constants added after the first layer. BatchNormalization gains stay: their input is divided."""
    additions = [pair.first.bias] if pair.first.use_bias else []
    for norm in pair.norms:
        additions += [norm.moving_mean, *([norm.beta] if norm.center else [])]
    for weight in additions:
        weight.assign((np.asarray(weight, np.float64) / scale).astype(np.float32))
