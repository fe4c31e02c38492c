"""Conversion to tf_keras: build a new, flat model from the graph of another."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.base.annotations import path_of, remember_path
from tfopt.base.terminal import keras_message
from tfopt.bridge import activations, carried, check, masked_softmax, native, plans, policy, weights
from tfopt.bridge.compile import compile_like, is_compiled
from tfopt.errors import ModelError
from tfopt.graph.indices import Indices, index_inputs
from tfopt.graph.types import Graph, GraphInput, Leaf, Ref, is_layer, replay
from tfopt.graph.walk import is_model, is_subclassed, walk


def to_tf_keras(model: Any) -> Any:
    """Return a new, flat tf_keras Functional model that computes what `model` does.

    `model` is a built model of Keras 3 or tf_keras; nested models are opened, subclassed ones traced. It is not changed
    and shares no weights with the result. The result has its weights and `trainable` flags and is compiled the same
    way, without the optimizer state. Half-precision layers become float32. Layers and operations without a twin run
    Keras 3 inside (see `crossings`).

    Raises:
        ModelError: the model cannot be converted (see `walk.walk`, `plans.plans`), or the result, tried on a small
            batch, gives different outputs.
    """
    graph = walk(model)
    planned = plans_of(graph)
    result = build(graph, planned)
    check.check_equal(graph, model, {layer.name: layer for layer in result.layers}, result, lambda _: planned)
    if is_compiled(model):
        compile_like(result, model)
    return result


def as_flat_model(model: Any) -> Any:
    """Return `model` itself if it is a flat tf_keras Functional model, else what `to_tf_keras` makes of it.

    Raises:
        ModelError: as `to_tf_keras` does.
    """
    return model if _is_flat(model) else to_tf_keras(model)


def _is_flat(model: Any) -> bool:
    if not keras_compat.is_tf_keras_model(model) or is_subclassed(model):
        return False
    return not isinstance(model, keras_compat.tf_keras().Sequential) and not any(map(is_model, model.layers))


def clone(model: Any) -> Any:
    """Return a copy of a flat tf_keras `model`: same names, weights and `trainable` flags, separate variables.

    The copy is not compiled.

    Raises:
        ModelError: the model is of another kind, or a layer cannot be rebuilt from its config.
    """
    if not keras_compat.is_tf_keras_model(model):
        raise ModelError(f"Clone expects a tf_keras model, got {type(model).__module__}.{type(model).__name__}.")
    return build(walk(model, keep_names=True))


def flat_layers(model: Any) -> list[tuple[str, Any, str]]:
    """Return (name in the flat model, the caller's layer, its path "outer/inner/layer") for each layer, in call order.

    Input layers and the models themselves are left out.

    Raises:
        ModelError: as `to_tf_keras` does.
    """
    return [(leaf.name, leaf.layer, leaf.path) for leaf in walk(model).leaves]


def crossings(model: Any) -> list[plans.Crossing]:
    """Return how each layer and operation of `model` converts to tf_keras, in call order, without building anything.

    A layer that cannot be converted says so in its row.

    Raises:
        ModelError: the graph of the model cannot be read.
    """
    return plans.crossings(walk(model), to_flat_model)


def register_classes() -> None:
    """Register in tf_keras tfopt's classes and functions that a flat model may hold, so that files with them load."""
    activations.registered()
    native.classes("LayerScale")
    masked_softmax.classes()
    carried.carried_class()


def to_flat_model(model: Any) -> Any:
    """Convert like `to_tf_keras`, without the check and the compile settings, for a model inside a layer."""
    return build(walk(model))


def plans_of(graph: Graph) -> dict[int, plans.Plan]:
    """Return the plan of each leaf of `graph`, by its `id`; raise ModelError as `plans.plans` does."""
    return plans.plans(graph, to_flat_model)


@keras_compat.float32_layers()
def build(
    graph: Graph,
    planned: dict[int, plans.Plan] | None = None,
    *,
    changes: Mapping[str, dict[str, Any]] | None = None,
    values: Mapping[str, list[np.ndarray]] | None = None,
) -> Any:
    """Return the tf_keras model of `graph` with copied weights.

    `planned` is the result of `plans_of(graph)`, if it is known; `changes` overrides configs by flat layer name, and
    `values` all weights of a layer of a flat model.
    """
    tf_keras = keras_compat.tf_keras()
    indices = index_inputs(graph)
    tensors: dict[Ref, Any] = {
        spec.ref: tf_keras.Input(batch_shape=spec.shape, dtype=_dtype(spec, indices), name=spec.name)
        for spec in graph.inputs
    }
    planned = planned or plans_of(graph)
    twins = {id(leaf): planned[id(leaf)].make(**(changes or {}).get(leaf.name, {})) for leaf in graph.leaves}

    def run(leaf: Leaf, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            return twins[id(leaf)](*[list(a) if isinstance(a, tuple) else a for a in args], **kwargs)
        except Exception as error:
            raise ModelError(
                f"{policy.describe(leaf)}: tf_keras refuses its input ({keras_message(error)})."
            ) from error

    inputs, outputs = replay(graph, tensors, run, lambda call: planned[id(call.leaf)].arguments(call))
    model = tf_keras.Model(inputs, outputs, name=_valid_name(graph.name))
    for leaf in graph.leaves:
        remember_path(twins[id(leaf)], path_of(leaf.layer) or leaf.path)
        try:
            if leaf.name in (values or {}):
                twins[id(leaf)].set_weights(values[leaf.name])  # type: ignore[index]
            else:
                copy_weights(leaf, leaf.layer, twins[id(leaf)])
        except ModelError as error:
            if other := _of_other_shape(graph, twins):
                raise ModelError(f"{error} {other}.") from error
            raise
        if is_layer(leaf.layer) and not policy.is_tf_keras(leaf.layer):
            weights.copy_flags(leaf.layer, twins[id(leaf)])
    return model


def _valid_name(name: str) -> str:
    """Return `name` with "_" for what TensorFlow refuses in the name of a scope, which the model's name becomes."""
    name = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"m{name}"


def _dtype(spec: GraphInput, indices: Mapping[Ref, Indices]) -> str:
    """Return the dtype of an input; int32 for word indices, which Keras gives the dtype float32 by default."""
    dtype = policy.float_policy(spec.dtype)
    return "int32" if dtype.startswith("float") and spec.ref in indices and indices[spec.ref].only else dtype


def _of_other_shape(graph: Graph, twins: dict[int, Any]) -> str:
    """Name the first layer whose twin gives another shape than the model was built for; "" if there is none."""
    for call in graph.calls:
        twin = twins[id(call.leaf)]
        shapes = [tuple(twin.output_shape)] if is_layer(call.leaf.layer) and len(twin.inbound_nodes) == 1 else []
        for shape, ref in zip(shapes, call.outputs, strict=False):
            wanted = tuple(ref.shape or shape)
            if len(shape) != len(wanted) or any(a and b and a != b for a, b in zip(shape, wanted, strict=True)):
                return (
                    f"In inference, {policy.describe(call.leaf)} gives the shape {shape}, where the model was built "
                    f"for {wanted}: replace that layer, or leave it out"
                )
    return ""


def copy_weights(leaf: Leaf, layer: Any, twin: Any, *, back: bool = False) -> None:
    """Copy the weights of `layer` to `twin`, or the reverse if `back`. Raise ModelError if shapes differ."""
    if not is_layer(layer):
        return
    try:
        weights.copy(layer, twin, back=back)
    except ModelError as error:
        raise ModelError(f"{policy.describe(leaf)}: {error}") from error
