"""The connections between layers of a flat tf_keras model, and the per-channel effect of a BatchNormalization."""

import collections
from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Ref, refs_in
from tfopt.graph.walk import walk


class Wiring:
    """The connections between the layers of a flat tf_keras model."""

    def __init__(self, model: Any) -> None:
        graph = walk(model, keep_names=True)
        self._calls: dict[str, list[Call]] = collections.defaultdict(list)
        self._takers: dict[Ref, list[Call | None]] = collections.defaultdict(list)  # None: an output of the model
        for call in graph.calls:
            self._calls[call.leaf.name].append(call)
            for ref in refs_in([call.args, call.kwargs]):
                self._takers[ref].append(call)
        for ref in refs_in(graph.outputs_struct):
            self._takers[ref].append(None)

    def behind(self, layer: Any) -> Any | None:
        """Return the layer that follows `layer`, or None.

        It must be the only consumer of the output of `layer` and have no other input. Both must be called exactly once.
        """
        calls = self._calls[layer.name]
        if len(calls) != 1 or len(calls[0].outputs) != 1:
            return None
        takers = self._takers[calls[0].outputs[0]]
        taker = takers[0] if len(takers) == 1 else None
        if taker is None:
            return None
        alone = len(self._calls[taker.leaf.name]) == 1 and len(list(refs_in([taker.args, taker.kwargs]))) == 1
        return taker.leaf.layer if alone else None


def is_channelwise_norm(layer: Any) -> bool:
    """Return whether `layer` is a BatchNormalization over the last axis."""
    return facts_of(layer).family == "batch_norm" and list(layer.axis) == [len(layer.input.shape) - 1]


def gain_and_offset(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return gain and offset of a BatchNormalization in inference, gain * x + offset; float64, per channel."""
    variance, mean = (np.asarray(weight, np.float64) for weight in (norm.moving_variance, norm.moving_mean))
    gain = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        gain = gain * np.asarray(norm.gamma, np.float64)
    offset = -mean * gain
    return gain, offset + np.asarray(norm.beta, np.float64) if norm.center else offset
