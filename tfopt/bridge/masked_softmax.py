"""Softmax and attention of tf_keras that mask as Keras 3 does: by choosing, and with 0 where it gives 0.

tf_keras adds -1e9 to masked scores. Where all are masked, as for a padded word as a query, rounding alone makes the
probabilities equal, which no integer file can do. Keras 3.15 replaces the scores, and gives 0 for what is masked where
it computes the probabilities itself: in Softmax, and in attention with dropout, scores to return, or several axes.
"""

import functools
from typing import Any

from tfopt.base import keras_compat
from tfopt.bridge.activations import NoTwinError
from tfopt.graph import keras_internals
from tfopt.graph.types import Call, refs_in

_MASKS = ("mask", "attention_mask", "query_mask", "value_mask", "key_mask", "use_causal_mask")
_FUSED_RANK = 3  # (samples, steps, channels), for which Keras 3 has one function for all of attention


def class_for(layer: Any, calls: list[Call]) -> Any:
    """Return the class of the twin of a `layer` of either Keras that has masked `calls`; None for any other layer."""
    return classes().get(type(layer).__name__) if any(map(_is_masked, calls)) else None


def gives_zeros(layer: Any, calls: list[Call]) -> bool:
    """Return whether a Keras 3 `layer` gives probabilities of 0 in masked `calls` where everything is masked.

    Raises:
        NoTwinError: in some of them.
    """
    if not _keras3_gives_zeros():
        return False
    if type(layer).__name__ == "Softmax" or layer.get_config()["dropout"] > 0:
        return True
    found = {_scores_are_made(_arguments(call)) for call in calls if _is_masked(call)}
    if len(found) > 1:
        raise NoTwinError("some of its calls return attention scores, for which Keras masks in another way")
    return found.pop()


def _scores_are_made(arguments: dict[str, Any]) -> bool:
    return bool(arguments.get("return_attention_scores")) or len(arguments["query"].shape) != _FUSED_RANK


def _is_masked(call: Call) -> bool:
    carried = any(ref.masked for ref in refs_in([call.args, call.kwargs]))
    arguments = _arguments(call)
    return carried or not all(arguments.get(name) is None or arguments[name] is False for name in _MASKS)


def _arguments(call: Call) -> dict[str, Any]:
    names, _ = keras_internals.call_names(call.leaf.layer)
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


@functools.cache
def _keras3_gives_zeros() -> bool:
    """Return whether this version of Keras 3 does: older ones weigh all keys alike."""
    import keras
    import numpy as np

    return not np.any(keras.layers.Softmax()(np.zeros((1, 2), "float32"), mask=np.zeros((1, 2), bool)))


@functools.cache
def classes() -> dict[str, Any]:
    """Return the classes by their names, which are those of tf_keras."""
    import tensorflow as tf

    tf_keras = keras_compat.tf_keras()
    softmax: Any = tf_keras.layers.Softmax
    attention: Any = keras_internals.attention_class()
    register = tf_keras.saving.register_keras_serializable("tfopt")

    @register
    class Softmax(softmax):  # type: ignore[misc]
        """Softmax that replaces masked values, and gives 0 for them if `zeros`, even where all are masked."""

        def __init__(self, axis: Any = -1, zeros: bool = False, **kwargs: Any) -> None:
            super().__init__(axis, **{**kwargs, "robust_masking": True})
            self.zeros = zeros

        def call(self, inputs: Any, mask: Any = None) -> Any:
            if mask is None:
                return super().call(inputs)
            mask = tf.convert_to_tensor(mask)
            kept = mask if mask.dtype == tf.bool else tf.cast(mask, inputs.dtype) > 0.5
            outputs = super().call(inputs, kept)
            return tf.where(kept, outputs, tf.zeros((), outputs.dtype)) if self.zeros else outputs

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            del inputs
            return None if mask is None else tf.convert_to_tensor(mask)  # Keras marks it, which no array allows

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "zeros": self.zeros}

    @register
    class MultiHeadAttention(attention):  # type: ignore[misc]
        """Attention whose probabilities this Softmax computes."""

        def __init__(self, *args: Any, zeros: bool = False, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.zeros = zeros

        def make_softmax(self, **arguments: Any) -> Any:
            return Softmax(**arguments, zeros=self.zeros)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "zeros": self.zeros}

    return {cls.__name__: cls for cls in (Softmax, MultiHeadAttention)}
