"""What every file of the bridge asks about a layer: its dtype policy, its Keras, its name for messages."""

from typing import Any

from tfopt.base import keras_compat
from tfopt.graph.types import Leaf

_HALF = ("float16", "bfloat16")


def describe(leaf: Leaf) -> str:
    """For messages: layer 'conv' (Conv2D) at 'outer/inner/conv'."""
    return f"layer '{leaf.layer.name}' ({type(leaf.layer).__name__}) at '{leaf.path}'"


def float_policy(name: str) -> str:
    """`name` of a dtype or dtype policy, float32 where it is of half precision."""
    return "float32" if any(half in name for half in _HALF) else name


def is_half(layer: Any) -> bool:
    """True for a layer that computes in float16 or bfloat16."""
    return getattr(layer, "compute_dtype", None) in _HALF  # an operation has none


def policy_name(layer: Any) -> str:
    """The name of the layer's dtype policy."""
    policy = layer.dtype_policy
    return str(getattr(policy, "name", policy))


def is_tf_keras(layer: Any) -> bool:
    """True for a layer of tf_keras."""
    return isinstance(layer, keras_compat.tf_keras().layers.Layer)
