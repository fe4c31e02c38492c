"""The way back: a model in the caller's Keras and architecture, with the weights of a flat tf_keras model."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.base.annotations import path_of, remember_path
from tfopt.base.terminal import plain
from tfopt.bridge import check, policy, state
from tfopt.bridge.build import copy_weights, plans_of
from tfopt.bridge.compile import compile_like, is_compiled
from tfopt.bridge.edited import edited
from tfopt.bridge.plans import Plan
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Call, Graph, Leaf, flatten, is_layer, map_leaves, replay
from tfopt.graph.walk import graph_network, is_model, is_subclassed, walk


def to_keras(flat_model: Any, like: Any, *, resized: bool = False) -> Any:
    """Return a new model with the Keras (Keras 3 or tf_keras), architecture and names of `like`, nesting included.

    Its weights come from `flat_model`, matched by layer name and then by order. It is compiled like `like`. Neither
    argument is changed. A subclassed model that its config cannot restore becomes a functional one with the same
    layers.

    Args:
        flat_model: a flat tf_keras model whose layers have the names of `flat_layers(like)`.
        like: the model that defines the Keras and architecture of the result.
        resized: take layer sizes from `flat_model` where they differ, skip layers that it does not have, and add those
            that it has beside others (see `tfopt.bridge.edited`); nested models then come back flattened, under their
            flat names.

    Raises:
        ModelError: a layer with weights is missing, its weights have other shapes (unless `resized`), or the result,
            tried on a small batch, gives different outputs.
    """
    graph = walk(like)
    sources = {layer.name: layer for layer in flat_model.layers}
    other = edited(graph, sources, keras_compat.keras_of(like)) if resized else graph
    resizes = resized and (other is not graph or _is_resized(graph, sources))
    graph = other
    result = _resized_copy(like, graph, sources) if resizes else _copy_of(like, graph)
    new_graph = walk(result)
    copies = _matched(graph, new_graph)
    for leaf in graph.leaves:
        if not is_layer(leaf.layer):
            continue
        state.copy(leaf.layer, copies[id(leaf)].layer)
        if path := path_of(leaf.layer):  # `like` is flat itself
            remember_path(copies[id(leaf)].layer, path)
        source = sources.get(leaf.name)
        if source is not None:
            copy_weights(leaf, copies[id(leaf)].layer, source, back=True)
        elif leaf.layer.weights:
            raise ModelError(
                f"The tf_keras model '{flat_model.name}' has no layer '{leaf.name}', whose weights '{leaf.path}' of "
                f"'{like.name}' needs; pass the result of to_tf_keras(like), stripped of wrappers."
            )
    both = [leaf for leaf in graph.leaves if leaf.name in sources and id(leaf) in copies]
    named = {copies[id(leaf)].name: sources[leaf.name] for leaf in both}
    check.check_equal(new_graph, result, named, flat_model, plans_of)
    if is_compiled(like):
        compile_like(result, like)
    return result


def require_rebuildable(model: Any) -> None:
    """Raise `ModelError` if a Keras 3 `model` cannot be rebuilt from its config, as `to_keras` does after training."""
    if not keras_compat.is_keras3_model(model):
        return
    graph = walk(model)
    _refuse_weights_as_constants(model, graph)
    _matched(graph, walk(_copy_of(model, graph)))


def _refuse_weights_as_constants(model: Any, graph: Graph) -> None:
    """Raise `ModelError` if a model uses a weight outside of its layer, as a constant: no training would change it."""
    found = {weight.path: np.asarray(weight) for weight in model.trainable_weights if len(weight.shape) > 1}
    weights = {path: values for path, values in found.items() if np.ptp(values) > 0}
    for call in graph.calls:
        for part in flatten([call.args, call.kwargs]):
            held = np.asarray(part) if hasattr(part, "numpy") and hasattr(part, "shape") else np.zeros(())
            for path, values in weights.items():
                if held.ndim > 1 and held.size == values.size and (np.sort(held, None) == np.sort(values, None)).all():
                    raise ModelError(
                        f"The model '{model.name}' uses its weight '{path}' outside of the layer that owns it, as a "
                        "constant that training would not change. Use the layer twice, or keras.layers."
                        "ReversibleEmbedding for an embedding with a tied output."
                    )


def _matched(graph: Graph, copy: Graph) -> dict[int, Leaf]:
    """Return the leaf of `copy` for each leaf of `graph`, by `id`: at the same path, or else in the same position.

    A subclassed model may renumber the layers that it did not name. Operations, which have no weights, may be missing:
    Keras 3 writes masks differently in a rebuilt model.
    """
    ours, theirs = ([leaf for leaf in side.leaves if is_layer(leaf.layer)] for side in (graph, copy))
    operations = {leaf.name for leaf in graph.leaves if not is_layer(leaf.layer)}
    theirs = [leaf for leaf in theirs if leaf.path not in operations]  # see `_layer_instead`
    by_path = {leaf.path: leaf for leaf in copy.leaves}
    if {leaf.path for leaf in theirs} == {leaf.path for leaf in ours}:
        return {id(leaf): by_path[leaf.path] for leaf in graph.leaves if leaf.path in by_path}
    if [type(leaf.layer).__name__ for leaf in ours] != [type(leaf.layer).__name__ for leaf in theirs]:
        raise ModelError(
            f"Model '{graph.name}' has different layers when rebuilt from its config, so it cannot be converted back."
        )
    return {id(leaf): twin for leaf, twin in zip(ours, theirs, strict=True)}


def _copy_of(model: Any, graph: Graph) -> Any:
    """Return a new model from the config of `model`, with its `trainable` flags and fresh weights."""
    keras3 = keras_compat.is_keras3_model(model)
    scope: Any = keras_compat.tf_keras().saving.custom_object_scope
    if keras3:
        import keras

        scope = keras.saving.CustomObjectScope
    package = "keras" if keras3 else "tf_keras"
    things = [leaf.layer for leaf in graph.leaves] + keras_internals.sublayers(model, recursive=True)
    custom = policy.custom_objects(things, package)
    try:
        with scope(custom), keras_internals.trusting_scope(keras3):
            if is_subclassed(model):
                return _revived(model, graph)
            if keras3 and not policy.are_named(things):
                copy = _cloned(model)
            else:
                copy = type(model).from_config(model.get_config())
            if not copy.built:
                copy.build(model.input_shape)
    except Exception as error:
        said = plain(" ".join(str(error).split()).partition(". ")[0])
        raise ModelError(
            f"Model '{model.name}' cannot be rebuilt from its config, as is needed to return one like it: {said}. "
            "A layer of your own needs get_config with all arguments of its __init__, and an __init__ that passes "
            "**kwargs on to super().__init__."
        ) from error
    _copy_flags(model, copy)
    return copy


def _cloned(model: Any) -> Any:
    """Return a new Keras 3 model whose layers get the functions of those of `model`, which no config can name."""
    import keras

    # Of a functional model, `clone_model` would name the inputs after their tensors.
    inputs = None if isinstance(model, keras.Sequential) else map_leaves(_input_like, model.input)
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=_with_functions, recursive=True)


def _with_functions(layer: Any, **changes: Any) -> Any:
    """Return a new Keras 3 layer with the config of `layer` but `changes`, and with its functions themselves."""
    import keras

    config = {**layer.get_config(), **changes}
    if isinstance(layer, keras.layers.Lambda):
        return type(layer)(**{**config, **keras_internals.parts_of_lambda(layer)})
    values = {key: getattr(layer, key, None) for key in config}
    functions = {key: value for key, value in values.items() if inspect.isfunction(value)}
    return type(layer).from_config({**config, **functions})


def _input_like(tensor: Any) -> Any:
    import keras

    name = keras_internals.input_name(tensor)
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name, sparse=bool(tensor.sparse))


def _revived(model: Any, graph: Graph) -> Any:
    """Return a copy of a subclassed model, or an equivalent functional one if its config cannot restore it."""
    try:
        copy = type(model).from_config(model.get_config())
        copy(map_leaves(_zeros, keras_internals.structs(graph_network(model))[0]))  # built as `model` was
    except Exception:
        return _replayed(model, graph)
    _copy_flags(model, copy)
    return copy


def _replayed(
    model: Any,
    graph: Graph,
    sizes: Mapping[str, dict[str, Any]] | None = None,
    instead: Mapping[str, tuple[Any, Plan]] | None = None,
) -> Any:
    """Return the flat functional model of `graph` in the Keras of `model`, with new layers under their flat names.

    `sizes` overrides layer configs, by flat name; `instead` has layers that stand for operations, with their plans.
    """
    package = keras_compat.keras_of(model)
    tensors: dict[Any, Any] = {
        spec.ref: package.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name) for spec in graph.inputs
    }
    instead = instead or {}
    copies = {
        id(leaf): instead[leaf.name][0] if leaf.name in instead else _new_layer(leaf, (sizes or {}).get(leaf.name, {}))
        for leaf in graph.leaves
    }

    def arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
        return instead[call.leaf.name][1].arguments(call) if call.leaf.name in instead else (call.args, call.kwargs)

    inputs, outputs = replay(graph, tensors, lambda leaf, args, kwargs: copies[id(leaf)](*args, **kwargs), arguments)
    return package.Model(inputs, outputs, name=graph.name)


def _new_layer(leaf: Leaf, sizes: dict[str, Any]) -> Any:
    """Return a layer like that of `leaf` with the given `sizes`; an operation, which is stateless, is reused."""
    if not is_layer(leaf.layer):
        return leaf.layer
    config = {**_unbuilt(leaf.layer.get_config()), **sizes, "name": leaf.name}
    config.pop("trainable", None)  # some layers do not take it
    if keras_internals.is_keras3_layer(leaf.layer) and not policy.are_named([leaf.layer]):
        layer = _with_functions(leaf.layer, **sizes, name=leaf.name)
    else:
        layer = type(leaf.layer).from_config(config)
    layer.trainable = leaf.trainable
    return layer


def _unbuilt(config: Any) -> Any:
    """Return a config without the shapes for which inner layers were built."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [_unbuilt(value) for value in config] if isinstance(config, list) else config


def _is_resized(graph: Graph, sources: Mapping[str, Any]) -> bool:
    """Return whether a flat layer and its leaf have weights of different shapes; other differences raise later."""
    pairs = [(leaf.layer, sources[leaf.name]) for leaf in graph.leaves if leaf.name in sources and is_layer(leaf.layer)]
    return any(len(ours.weights) == len(theirs.weights) and _shapes(ours) != _shapes(theirs) for ours, theirs in pairs)


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    """Return the sorted weight shapes: the Kerases may order the weights of a layer differently."""
    return sorted(tuple(weight.shape) for weight in layer.weights)


def _resized_copy(model: Any, graph: Graph, sources: Mapping[str, Any]) -> Any:
    """Return a copy of `model` with the layer sizes of the flat `sources`; Sequential is kept unless it nests."""
    planned = plans_of(graph)
    leaves = [leaf for leaf in graph.leaves if leaf.name in sources and is_layer(leaf.layer)]
    sizes = {leaf.name: _new_sizes(leaf, planned[id(leaf)].make(), sources[leaf.name]) for leaf in leaves}
    package = keras_compat.keras_of(model)
    instead = {
        leaf.name: (layer, planned[id(leaf)])
        for leaf in graph.leaves
        if leaf.name in sources and not is_layer(leaf.layer)
        if (layer := _layer_instead(leaf.name, planned[id(leaf)].make(), sources[leaf.name], package)) is not None
    }
    result = _replayed(model, graph, sizes, instead)
    if type(model) is not package.Sequential or any(is_model(layer) for layer in model.layers):
        return result
    first = package.Input(batch_shape=graph.inputs[0].shape, dtype=graph.inputs[0].dtype, name=graph.inputs[0].name)
    layers = [layer for layer in result.layers if not isinstance(layer, package.layers.InputLayer)]
    return package.Sequential([first, *layers], name=model.name)


def _new_sizes(leaf: Leaf, before: Any, after: Any) -> dict[str, Any]:
    """Return the size settings (`units`, `filters`, `target_shape`) that differ in the config of the flat layer.

    Both Kerases use the same names for them. Flags and axes are not sizes.
    """
    return _changed_sizes(_unbuilt(leaf.layer.get_config()), before.get_config(), after.get_config())


def _changed_sizes(own: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that differ between `old` and `new`, also within the configs of inner layers."""
    found: dict[str, Any] = {}
    for key in (own.keys() & old.keys() & new.keys()) - {"axis", "name"}:
        if _is_size(new[key]) and new[key] != old[key]:
            found[key] = new[key]
            continue
        inner = _resized(own[key], old[key], new[key])
        if inner != own[key]:
            found[key] = inner
    return found


def _resized(own: Any, old: Any, new: Any) -> Any:
    """Return the config of an inner layer, or of a list of them, with the sizes of `new`; anything else as it is."""
    if all(isinstance(each, list) for each in (own, old, new)) and len(own) == len(old) == len(new):
        return [_resized(*each) for each in zip(own, old, new, strict=True)]
    if all(isinstance(each, dict) and isinstance(each.get("config"), dict) for each in (own, old, new)):
        return {**own, "config": {**own["config"], **_changed_sizes(own["config"], old["config"], new["config"])}}
    return own


def _is_size(value: Any) -> bool:
    """Return whether a setting is a size, or numbers of which each belongs to a channel."""
    if isinstance(value, list | tuple):
        known = [each for each in value if each is not None]  # a free size
        return (bool(known) and all(map(_is_size, known))) or _are_numbers(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, float) or _are_numbers(each) for each in value)


def _layer_instead(name: str, before: Any, after: Any, package: Any) -> Any:
    """Return a layer in the caller's Keras for an operation whose sizes have changed; None if they have not."""
    old, new = before.get_config(), after.get_config()
    changed = {key: value for key, value in new.items() if key not in ("name", "trainable", "dtype")}
    if hasattr(after, "carried_weights") or all(old.get(key) == value for key, value in changed.items()):
        return None
    return getattr(package.layers, type(after).__name__)(**changed, name=name)


def _zeros(tensor: Any) -> np.ndarray:
    shape = [size or 1 for size in tensor.shape]
    return np.zeros(shape, getattr(tensor.dtype, "name", tensor.dtype))


def _copy_flags(model: Any, copy: Any) -> None:
    """Copy `trainable` flags from the outside in: setting the flag of a model sets it in all its layers."""
    copy.trainable = model.trainable
    for layer, twin in zip(model.layers, _in_order(model, copy), strict=True):
        if is_model(layer):
            _copy_flags(layer, twin)
        else:
            twin.trainable = layer.trainable


def _in_order(model: Any, copy: Any) -> list[Any]:
    """Return the layers of `copy` in the order of `model`'s, matched by name where the names agree."""
    copies = {layer.name: layer for layer in copy.layers}
    names = [layer.name for layer in model.layers]
    return [copies[name] for name in names] if copies.keys() == set(names) else list(copy.layers)
