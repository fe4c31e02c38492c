"""Exact rewrites of a flat tf_keras model, made before TF-MOT sees it."""

import collections
import dataclasses
from typing import Any

from tfopt import legacy
from tfopt.bridge import check
from tfopt.bridge.build import build
from tfopt.bridge.graph import Call, Graph, Ref, map_leaves, refs_in, walk
from tfopt.errors import ModelError

_FUSABLE = ("Conv2D", "DepthwiseConv2D", "Dense")


def fuse_relu(legacy_model: Any) -> Any:
    """A new tf_keras model, equal to the flat `legacy_model`, with ReLU layers moved into the layers before.

    A Conv2D, DepthwiseConv2D or Dense without activation takes over the plain ReLU that alone consumes it;
    that ReLU layer disappears, all others keep their names. TF-MOT gives the kernel of such a pair no fake
    quantization when the ReLU stands by itself. Neither is fused when called more than once, nor a layer
    whose output leaves the model. The result is not compiled and has its own variables. Raises ModelError
    for a Keras 3 model, and if the outputs of the result should differ.
    """
    if not legacy.is_tf_keras_model(legacy_model):
        raise ModelError(f"fuse_relu expects a tf_keras model, got {type(legacy_model).__name__}")
    graph = walk(legacy_model, keep_names=True)
    pairs = list(_pairs(graph))
    result = build(_without_relus(graph, pairs), {conv.leaf.name: {"activation": "relu"} for conv, _ in pairs})
    check.check_equal(graph, legacy_model, {layer.name: layer for layer in result.layers}, result)
    return result


def _pairs(graph: Graph) -> list[tuple[Call, Call]]:
    """(layer, ReLU) for all that may be fused."""
    calls = collections.Counter(call.leaf.name for call in graph.calls)
    uses = collections.Counter(ref for call in graph.calls for ref in refs_in([call.args, call.kwargs]))
    uses.update(refs_in(graph.outputs_struct))  # an output of the model counts as a consumer
    made_by = {call.outputs[0]: call for call in graph.calls if len(call.outputs) == 1}
    pairs = []
    for relu in graph.calls:
        given = list(refs_in([relu.args, relu.kwargs]))
        before = made_by.get(given[0]) if len(given) == 1 else None
        if before is None or uses[given[0]] != 1 or not _is_plain_relu(relu.leaf.layer):
            continue
        if calls[relu.leaf.name] == calls[before.leaf.name] == 1 and _is_linear(before.leaf.layer):
            pairs.append((before, relu))
    return pairs


def _is_plain_relu(layer: Any) -> bool:
    layers = legacy.tf_keras().layers
    if type(layer) is layers.Activation:
        return layer.activation is legacy.tf_keras().activations.relu
    if type(layer) is not layers.ReLU:
        return False
    config = layer.get_config()
    return config["max_value"] is None and not config["negative_slope"] and not config["threshold"]


def _is_linear(layer: Any) -> bool:
    tf_keras = legacy.tf_keras()
    kinds = tuple(getattr(tf_keras.layers, name) for name in _FUSABLE)
    # An activity regularizer sees the output: with the ReLU inside it would see another one.
    return (
        type(layer) in kinds and layer.activation is tf_keras.activations.linear and layer.activity_regularizer is None
    )


def _without_relus(graph: Graph, pairs: list[tuple[Call, Call]]) -> Graph:
    moved = {relu.outputs[0]: before.outputs[0] for before, relu in pairs}
    gone = {relu.leaf.name for _, relu in pairs}

    def redirect(part: Any) -> Any:
        return moved.get(part, part) if isinstance(part, Ref) else part

    calls = []
    for call in graph.calls:
        if call.leaf.name not in gone:
            args, kwargs = map_leaves(redirect, (call.args, call.kwargs))
            calls.append(dataclasses.replace(call, args=args, kwargs=kwargs))
    return dataclasses.replace(
        graph,
        calls=calls,
        leaves=[leaf for leaf in graph.leaves if leaf.name not in gone],
        outputs_struct=map_leaves(redirect, graph.outputs_struct),
    )
