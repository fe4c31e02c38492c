"""Typed versions of TensorFlow's decorators. TensorFlow ships no types, so its own leave what they decorate untyped."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def not_converted(function: F) -> F:
    """Keep AutoGraph from rewriting `function`.

    Args:
        function: a function or method that TensorFlow may trace.

    Returns:
        `function` wrapped by `tf.autograph.experimental.do_not_convert`.
    """
    import tensorflow as tf

    kept: F = tf.autograph.experimental.do_not_convert(function)
    return kept
