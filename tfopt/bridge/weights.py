"""Matching of the weights of a layer to those of its twin.

Both Kerases name the weights of a layer and its inner layers alike but order them differently (tf_keras puts frozen
ones last; TF-MOT's strip_clustering renames and moves them), so they are matched by name, and by order only among
weights of the same name.
"""

import collections
import re
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import is_layer
from tfopt.graph.walk import walk


def pairs(layer: Any, twin: Any, *, back: bool = False) -> list[tuple[Any, Any]]:
    """Return (variable of `layer`, variable of `twin`) for all weights; `twin` is the converted `layer`.

    Raises:
        ModelError: number or shapes differ. The message gives the twin's shapes as the expected ones, or the layer's if
            the weights go `back`.
    """
    if hasattr(twin, "carried_weights"):
        return _same_shapes(list(getattr(layer, "carried_weights", layer.weights)), twin.carried_weights, back)
    inner = getattr(layer, "layer", None)
    if inner is not None and keras_compat.is_keras3_model(inner):  # TimeDistributed(a model), flattened in the twin
        leaves = [leaf for leaf in walk(inner).leaves if is_layer(leaf.layer) and leaf.layer.weights]
        return [pair for leaf in leaves for pair in pairs(leaf.layer, twin.layer.get_layer(leaf.name), back=back)]
    return _by_name(_named(layer), _named(twin), back)


def copy(layer: Any, twin: Any, *, back: bool = False) -> None:
    """Copy the weights of `layer` to `twin`, or the reverse if `back`. Raise ModelError as `pairs` does."""
    for variable, twin_variable in pairs(layer, twin, back=back):
        source, target = (twin_variable, variable) if back else (variable, twin_variable)
        target.assign(np.asarray(_numpy(source)).astype(_dtype(target), copy=False))
    given = layer if back else twin
    for each in keras_internals.flat_layers(given):
        if hasattr(each, "finalize_state") and each.weights:
            each.finalize_state()  # Normalization computes with a copy of its weights


def copy_flags(layer: Any, twin: Any) -> None:
    """Copy the `trainable` flags of the layers inside `layer` to those inside `twin`, where both have the same."""
    ours, theirs = keras_internals.sublayers(layer), keras_internals.sublayers(twin)
    if [_base(each.name) for each in ours] != [_base(each.name) for each in theirs]:
        return
    for inner, inner_twin in zip(ours, theirs, strict=True):
        if layer.trainable and inner_twin.trainable != inner.trainable:
            inner_twin.trainable = inner.trainable
        copy_flags(inner, inner_twin)


def _named(layer: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return (name, variable) pairs; names include the path of inner layers, without the numbers Keras adds."""
    named = [(prefix + _base(variable.name), variable) for variable in keras_internals.own_variables(layer)]
    for inner in keras_internals.sublayers(layer):
        named += _named(inner, f"{prefix}{_base(inner.name)}/")
    return list({id(variable): (name, variable) for name, variable in named}.values())


def _base(name: str) -> str:
    return re.sub(r"_\d+$", "", name.rpartition("/")[2].partition(":")[0])


def _by_name(ours: list[tuple[str, Any]], theirs: list[tuple[str, Any]], back: bool) -> list[tuple[Any, Any]]:
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for name, variable in theirs:
        found[name].append(variable)
    if collections.Counter(name for name, _ in ours) != {name: len(same) for name, same in found.items()}:
        return _same_shapes([variable for _, variable in ours], [variable for _, variable in theirs], back)
    return _same_shapes([variable for _, variable in ours], [found[name].pop(0) for name, _ in ours], back)


def _same_shapes(ours: list[Any], theirs: list[Any], back: bool) -> list[tuple[Any, Any]]:
    received, expected = ([tuple(variable.shape) for variable in side] for side in (ours, theirs))
    if received != expected:
        expected, received = (received, expected) if back else (expected, received)
        raise ModelError(f"Expected weights of shapes {expected}, received {received}.")
    return list(zip(ours, theirs, strict=True))


def _numpy(variable: Any) -> Any:
    value = variable.value if hasattr(variable, "path") and not callable(variable.value) else variable
    if type(value).__module__.startswith("torch"):
        return value.detach().cpu().numpy()
    return value.numpy() if hasattr(value, "numpy") else value


def _dtype(variable: Any) -> Any:
    return getattr(variable.dtype, "as_numpy_dtype", variable.dtype)
