"""BatchNormalization layers that the converter folds into the preceding layer."""

from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.table import kernels


def folded_into(batch_norm: Any) -> Any:
    """Return the linear layer into which `batch_norm` (of a flat tf_keras model) is folded, or None."""
    producers = [node.layer for node in batch_norm.inbound_nodes[0].parent_nodes]
    if len(batch_norm.inbound_nodes) != 1 or len(producers) != 1:
        return None
    (producer,) = producers
    foldable = facts_of(producer).folds_batch_norm and producer.activation.__name__ == "linear"
    return producer if foldable and scales_channels(batch_norm) and len(producer.outbound_nodes) == 1 else None


def scales_channels(batch_norm: Any) -> bool:
    """Return whether a built BatchNormalization has one scale per index of the last axis, as kernels have."""
    return list(np.atleast_1d(batch_norm.axis)) == [batch_norm.input_spec.ndim - 1]


def make_scales_positive(model: Any) -> None:
    """Make negative scales of folded BatchNormalizations positive, in place, without changing what `model` computes.

    Folding multiplies a kernel's output channels by these scales. If both signs occur, each cluster c becomes c and -c
    in the file, which doubles the number of values. So where the scale of a channel is negative, its weights, bias,
    mean and scale change sign: gamma (w x + b - mean) = -gamma (-w x - b + mean).
    """
    for layer in model.layers:
        if facts_of(layer).family != "batch_norm" or not layer.scale:
            continue
        source = folded_into(layer)
        if source is None:
            continue
        sign = np.where(layer.gamma.numpy() < 0, -1.0, 1.0).astype(np.float32)
        kernel = kernels(source)[-1]  # of two kernels, the pointwise one produces the output channels
        along = [1] * len(kernel.shape)
        if kernel.spared:
            along[-2:] = kernel.shape[-2:]  # channels and multiplier
        else:
            along[kernel.channel_axis] = -1
        kernel.variable.assign(kernel.values * sign.reshape(along))
        biases = [source.bias] if source.use_bias else []
        for weight in (*biases, layer.gamma, layer.moving_mean):
            weight.assign(weight.numpy() * sign)
