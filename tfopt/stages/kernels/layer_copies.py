"""Copies of single layers for TF-MOT's wrappers."""

from typing import Any

from tfopt.base.keras_compat import tf_keras


def plain_copy(layer: Any) -> Any:
    """Return a new layer with the config of `layer`, without weights."""
    custom = {type(part).__name__: type(part) for part in layer._flatten_layers()}
    with tf_keras().utils.custom_object_scope(custom):
        return layer.__class__.from_config(layer.get_config())


def built_copy(layer: Any) -> Any:
    """Return a built copy of `layer` (of a flat tf_keras model) with the same weights and the same frozen parts.

    The copy is built by calling it as the model calls `layer`: some layers, such as MultiHeadAttention, create their
    weights only then.
    """
    import tensorflow as tf

    keras, copy, node = tf_keras(), plain_copy(layer), layer.inbound_nodes[0]

    def own(value: Any) -> Any:
        # By type: `tf.shape` gives numbers without a batch.
        return keras.Input(type_spec=value.type_spec) if hasattr(value, "_keras_history") else value

    args, kwargs = tf.nest.map_structure(own, (node.call_args, node.call_kwargs))
    copy(*args, **kwargs)
    for part, part_copy in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
        part_copy.trainable = part.trainable
    copy.set_weights(layer.get_weights())
    return copy


class KeepsCallContract:
    """Mixin for a Keras `Wrapper` that calls `self.layer.call`, so that masks pass as if there were no wrapper."""

    layer: Any

    def adopt_call_contract(self) -> None:
        """Copy the call contract of `self.layer`; call this after setting it."""
        self.supports_masking = self.layer.supports_masking
        # Keras passes the mask to any call with **kwargs, even if the layer does not accept it.
        self._call_spec.expects_mask_arg = self.layer._expects_mask_arg  # type: ignore[attr-defined]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask that the inner layer would pass on."""
        return self.layer.compute_mask(inputs, mask)
