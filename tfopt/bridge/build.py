"""Crossing into tf_keras: build a new, flat model from the graph of another."""

from typing import Any

import numpy as np

from tfopt import legacy
from tfopt.bridge import check, layers
from tfopt.bridge.compile import compile_like, is_compiled
from tfopt.bridge.graph import Graph, Leaf, Ref, map_leaves, walk
from tfopt.errors import ModelError


def to_tf_keras(model: Any) -> Any:
    """A new, flat tf_keras Functional model that computes what `model` does.

    `model` is a built Sequential or Functional model of Keras 3 or tf_keras; nested models are opened. It is
    not changed, and nothing is shared with it. The result has its weights and `trainable` flags, and is
    compiled as `model` is; the state of the optimizer stays behind. Half-precision layers become float32.
    Raises ModelError for a model that cannot be carried over (see `graph.walk`, `layers.twin`), and when
    the result, tried on a small batch, gives other outputs.
    """
    graph = walk(model)
    result = build(graph)
    check.check_equal(graph, model, {layer.name: layer for layer in result.layers}, result)
    if is_compiled(model):
        compile_like(result, model)
    return result


def clone(model: Any) -> Any:
    """A copy of a flat tf_keras `model`: same names, weights and `trainable` flags, own variables.

    The copy is not compiled. Raises ModelError for a model of another kind and for layers that cannot be
    rebuilt from their config.
    """
    if not legacy.is_tf_keras_model(model):
        raise ModelError(f"clone expects a tf_keras model, got {type(model).__module__}.{type(model).__name__}")
    return build(walk(model, keep_names=True))


def flat_layers(model: Any) -> list[tuple[str, Any, str]]:
    """(name in the flat twin, the caller's layer, its path "outer/inner/layer"), in calling order.

    Input layers and the models themselves are left out. Raises ModelError as `to_tf_keras` does.
    """
    return [(leaf.name, leaf.layer, leaf.path) for leaf in walk(model).leaves]


def build(graph: Graph, changes: dict[str, dict[str, Any]] | None = None) -> Any:
    """The tf_keras model of `graph`, weights copied; `changes` overrules configs by flat layer name."""
    tf_keras = legacy.tf_keras()
    tensors: dict[Ref, Any] = {
        spec.ref: tf_keras.Input(batch_shape=spec.shape, dtype=layers.float_policy(spec.dtype), name=spec.name)
        for spec in graph.inputs
    }
    twins = {id(leaf): layers.twin(leaf, **(changes or {}).get(leaf.name, {})) for leaf in graph.leaves}
    for call in graph.calls:
        args, kwargs = map_leaves(
            lambda part: tensors[part] if isinstance(part, Ref) else part, (call.args, call.kwargs)
        )
        try:
            outputs = twins[id(call.leaf)](*[list(a) if isinstance(a, tuple) else a for a in args], **kwargs)
        except Exception as error:
            raise ModelError(f"{layers.describe(call.leaf)}: tf_keras refuses its input ({error})") from error
        tensors.update(zip(call.outputs, _flat(outputs), strict=True))
    inputs, outputs = map_leaves(tensors.__getitem__, (graph.inputs_struct, graph.outputs_struct))
    model = tf_keras.Model(inputs, outputs, name=graph.name)
    for leaf in graph.leaves:
        copy_weights(leaf, leaf.layer, twins[id(leaf)])
    return model


def copy_weights(leaf: Leaf, source: Any, target: Any) -> None:
    """Gives layer `target` the weights of layer `source`; raises ModelError on unlike shapes."""
    values = source.get_weights()
    expected = [tuple(weight.shape) for weight in target.weights]
    received = [np.shape(value) for value in values]
    if expected != received:
        raise ModelError(f"{layers.describe(leaf)}: expected weights of shapes {expected}, received {received}")
    if values:
        target.set_weights(values)
    if hasattr(target, "finalize_state"):
        target.finalize_state()  # Normalization computes with a copy of its weights


def _flat(outputs: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(outputs))
