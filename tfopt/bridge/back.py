"""Crossing back: a model of the caller's kind and architecture, with the weights of a flat tf_keras one."""

from typing import Any

from tfopt import legacy
from tfopt.bridge import check
from tfopt.bridge.build import copy_weights
from tfopt.bridge.compile import compile_like, is_compiled
from tfopt.bridge.graph import is_model, walk
from tfopt.errors import ModelError


def to_keras(legacy_model: Any, like: Any) -> Any:
    """A new model of the kind (Keras 3 or tf_keras), architecture and names of `like`, nesting included.

    Its weights are those of `legacy_model`, a flat tf_keras model whose layers bear the names that
    `flat_layers(like)` tells, matched by name and then by the order of the weights. It is compiled as `like`
    is. Neither argument is changed. Raises ModelError where a layer with weights is missing or its weights
    have other shapes, and when the result, tried on a small batch, gives other outputs.
    """
    graph = walk(like)
    result = _copy_of(like)
    copies = {leaf.path: leaf.layer for leaf in walk(result).leaves}
    sources = {layer.name: layer for layer in legacy_model.layers}
    for leaf in graph.leaves:
        target, source = copies[leaf.path], sources.get(leaf.name)
        if source is not None:
            copy_weights(leaf, source, target)
        elif leaf.layer.weights:
            raise ModelError(
                f"the tf_keras model '{legacy_model.name}' has no layer '{leaf.name}', whose weights "
                f"'{leaf.path}' of '{like.name}' needs; pass what to_tf_keras(like) led to, stripped of wrappers"
            )
    new_graph = walk(result)
    check.check_equal(new_graph, result, sources, legacy_model)
    if is_compiled(like):
        compile_like(result, like)
    return result


def _copy_of(model: Any) -> Any:
    """A new model from the config of `model`, with its `trainable` flags and fresh weights."""
    if legacy.is_keras3_model(model):
        import keras

        scope, package = keras.saving.CustomObjectScope, "keras"
    else:
        scope, package = legacy.tf_keras().saving.custom_object_scope, "tf_keras"
    classes = {type(leaf.layer) for leaf in walk(model).leaves}
    custom = {c.__name__: c for c in classes if c.__module__.partition(".")[0] != package}
    try:
        with scope(custom):
            copy = type(model).from_config(model.get_config())
    except Exception as error:
        raise ModelError(f"model '{model.name}' cannot be rebuilt from its config: {error}") from error
    if not copy.built:
        copy.build(model.input_shape)
    _copy_flags(model, copy)
    return copy


def _copy_flags(model: Any, copy: Any) -> None:
    """Outside in: setting the flag of a model sets it in all its layers."""
    copy.trainable = model.trainable
    copies = {layer.name: layer for layer in copy.layers}
    for layer in model.layers:
        if is_model(layer):
            _copy_flags(layer, copies[layer.name])
        else:
            copies[layer.name].trainable = layer.trainable
