"""Common queries about a layer: its dtype policy, its Keras, its name for messages."""

import types
from collections.abc import Iterable
from typing import Any

from tfopt.base import keras_compat
from tfopt.graph.types import Leaf

_HALF = ("float16", "bfloat16")


def describe(leaf: Leaf) -> str:
    """Return the leaf as messages name it: layer 'conv' (Conv2D) at 'outer/inner/conv'."""
    return f"layer '{leaf.layer.name}' ({type(leaf.layer).__name__}) at '{leaf.path}'"


def float_policy(name: str) -> str:
    """Return `name` of a dtype or dtype policy, with half and double precision replaced by float32."""
    return "float32" if any(other in name for other in (*_HALF, "float64")) else name


def is_half(layer: Any) -> bool:
    """Return whether the layer computes in float16 or bfloat16."""
    return getattr(layer, "compute_dtype", None) in _HALF  # operations have none


def is_half_type(dtype: str) -> bool:
    """Return whether numbers of this dtype are float16 or bfloat16."""
    return dtype in _HALF


def policy_name(layer: Any) -> str:
    """Return the name of the layer's dtype policy."""
    policy = layer.dtype_policy
    return str(getattr(policy, "name", policy))


def is_tf_keras(layer: Any) -> bool:
    """Return whether the layer is of tf_keras."""
    return isinstance(layer, keras_compat.tf_keras().layers.Layer)


def custom_objects(layers: Iterable[Any], package: str) -> dict[str, Any]:
    """Return the classes of `layers` and the functions they hold, such as activations, that `package` does not define.

    A Keras that rebuilds the layers needs them by their names.
    """
    return {part.__name__: part for part in _own_parts(layers, package)}


def are_named(layers: Iterable[Any]) -> bool:
    """Return whether a config can name the functions in Keras 3 `layers`: no lambdas, and no two of one name."""
    parts = _own_parts(layers, "keras")
    by_name = {part.__name__: part for part in parts}
    return "<lambda>" not in by_name and all(by_name[part.__name__] is part for part in parts)


def _own_parts(layers: Iterable[Any], package: str) -> list[Any]:
    parts: list[Any] = [part for layer in layers for part in (type(layer), *vars(layer).values())]
    own = [part for part in parts if isinstance(part, (type, types.FunctionType))]
    return [part for part in own if part.__module__.partition(".")[0] != package]
