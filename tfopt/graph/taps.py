"""Outputs of inner layers in addition to a model's own, in one pass, at any nesting."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.lookup import named
from tfopt.graph.types import Ref, flatten, replay
from tfopt.graph.walk import graph_network, is_subclassed, walk


def tapped(model: Any, layers: Sequence[str]) -> Any:
    """Return a model with outputs `[output, *outputs of layers]` that shares every layer; `model` itself for no layers.

    `model` is a Keras 3 or tf_keras model with one output. Name a layer in a submodel by its path, "backbone/conv", or
    by its name if that is unique; name a layer in a TF-MOT wrapper by its own name.

    Raises:
        ModelError: a layer does not exist (the message lists the nearest names), is called more than once, or has
            several outputs.
    """
    if not layers:
        return model
    surface = {} if is_subclassed(model) else keras_compat.wrapped_layers(model)
    if surface.keys() >= set(layers):
        network = graph_network(model)
        inputs, outputs = keras_internals.structs(network)
        features = [_only(name, [flatten(node) for node in _made(network, surface[name])]) for name in layers]
    else:
        inputs, outputs, features = _flat_calls(model, layers)
    if len(flatten(outputs)) != 1:
        raise ModelError(
            f"Model '{model.name}' has {len(flatten(outputs))} outputs; distillation works with one: pass a model that "
            "gives only the output to learn."
        )
    return keras_compat.keras_of(model).Model(inputs, [*flatten(outputs), *features], name=f"{model.name}_tapped")


def shapes(model: Any, layers: Sequence[str]) -> dict[str, tuple[int | None, ...]]:
    """Return the output shapes of `layers`, without the batch axis. Raise ModelError as `tapped` does."""
    outputs = tapped(model, layers).outputs[1:] if layers else []
    return {name: tuple(output.shape)[1:] for name, output in zip(layers, outputs, strict=True)}


def probe_for(student: Any) -> np.ndarray:
    """Return two float32 inputs of the shape that `student` takes, for reading off shapes. Free axes get size 32.

    Raises:
        ModelError: the student has several inputs.
    """
    inputs = flatten(keras_internals.structs(graph_network(student))[0])
    if len(inputs) != 1:
        raise ModelError(f"The student '{student.name}' has {len(inputs)} inputs; distillation works with one.")
    return np.zeros((2, *(size or 32 for size in tuple(inputs[0].shape)[1:])), np.float32)


def on_rest(model: Any) -> Any:
    """Return the output of `model` for two all-zero inputs, in NumPy: enough to tell probabilities from logits."""
    return np.asarray(flatten(model(probe_for(model), training=False))[0]).astype(np.float32)


def _made(network: Any, layer: Any) -> list[Any]:
    """Return the output of each call of `layer` in `network`."""
    return [outputs for called, _, _, outputs in keras_internals.nodes(network) if called is layer]


def _flat_calls(model: Any, layers: Sequence[str]) -> tuple[Any, Any, list[Any]]:
    """Return inputs, outputs and features of a model whose submodels must be opened: call all layers again, flat."""
    graph = walk(model, keep_names=True)
    wanted = [named(graph, name, model.name).layer for name in layers]
    tensors: dict[Ref, Any] = {
        spec.ref: keras_compat.keras_of(model).Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name)
        for spec in graph.inputs
    }
    inputs, outputs = replay(graph, tensors, lambda leaf, args, kwargs: leaf.layer(*args, **kwargs))
    made = [
        [[tensors[ref] for ref in call.outputs] for call in graph.calls if call.leaf.layer is layer] for layer in wanted
    ]
    return inputs, outputs, [_only(name, calls) for name, calls in zip(layers, made, strict=True)]


def _only(name: str, calls: list[list[Any]]) -> Any:
    """Return the single output of the single call."""
    if len(calls) != 1 or len(calls[0]) != 1:
        what = f"is called {len(calls)} times" if len(calls) != 1 else f"has {len(calls[0])} outputs"
        raise ModelError(f"Layer '{name}' {what}, so its output is not one tensor; name another layer.")
    return calls[0][0]
