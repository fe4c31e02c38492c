"""Copies of single layers for TF-MOT's wrappers."""

import json
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras, unwrapped
from tfopt.graph import keras_internals
from tfopt.graph.types import map_leaves, replay
from tfopt.graph.walk import walk

_TENSOR = "tensor "  # begins the text that stands for a tensor


def unbuilt_copy(layer: Any) -> Any:
    """Return a new layer with the config of `layer`, without weights."""
    custom = {type(part).__name__: type(part) for part in keras_internals.flat_layers(layer)}
    with tf_keras().utils.custom_object_scope(custom):
        return layer.__class__.from_config(layer.get_config())


def built_copy(layer: Any) -> Any:
    """Return a built copy of `layer` (of a flat tf_keras model) with the same weights and the same frozen parts.

    The copy is built by calling it as the model calls `layer`: some layers, such as MultiHeadAttention, create their
    weights only then.
    """
    import tensorflow as tf

    keras, copy, node = tf_keras(), unbuilt_copy(layer), layer.inbound_nodes[0]

    def own(value: Any) -> Any:
        # By type: `tf.shape` gives numbers without a batch.
        return keras.Input(type_spec=value.type_spec) if keras_internals.is_symbolic(value) else value

    args, kwargs = tf.nest.map_structure(own, (node.call_args, node.call_kwargs))
    copy(*args, **kwargs)
    keras_internals.forget_losses(copy)
    parts = (keras_internals.flat_layers(each) for each in (layer, copy))
    for part, part_copy in zip(*parts, strict=True):
        part_copy.trainable = part.trainable
    copy.set_weights(layer.get_weights())
    return copy


def without_wrappers(model: Any) -> Any:
    """Return a flat tf_keras model of the layers inside the wrappers of `model`, with their weights."""
    graph = walk(model, keep_names=True)
    copies = {leaf.name: _inner_copy(leaf.layer) for leaf in graph.leaves}
    inputs = {
        spec.ref: tf_keras().Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name) for spec in graph.inputs
    }
    tensors = dict(inputs)
    _, outputs = replay(graph, tensors, lambda leaf, args, kwargs: copies[leaf.name](*args, **kwargs))
    return tf_keras().Model(map_leaves(inputs.__getitem__, graph.inputs_struct), outputs, name=graph.name)


def _inner_copy(layer: Any) -> Any:
    if hasattr(layer, "quantizer_vars"):  # TF-MOT's layer for the inputs
        return lambda values: values
    return built_copy(layer) if unwrapped(layer) is layer else unbuilt_copy(unwrapped(layer))


def call_of(wrapper: Any) -> Any:
    """Return how the model first calls a wrapped layer, as JSON: (arguments, keyword arguments)."""
    node = wrapper.inbound_nodes[0]

    def saved(part: Any) -> Any:
        if keras_internals.is_symbolic(part):
            return f"{_TENSOR}{json.dumps([part.dtype.name, list(part.shape)])}"
        if hasattr(part, "__array__"):
            return np.asarray(part).tolist()
        return part if isinstance(part, bool | int | float | str) else None

    return map_leaves(saved, [list(node.call_args), dict(node.call_kwargs)])


def restored(config: dict[str, Any], call: Any) -> Any:
    """Return the layer that a wrapper's config holds, built; its weights have no values yet.

    Args:
        config: of the layer, serialized.
        call: from `call_of`; None to leave the layer unbuilt.
    """
    import tensorflow as tf

    keras = tf_keras()

    def made(part: Any) -> Any:
        if not isinstance(part, str) or not part.startswith(_TENSOR):
            return part
        dtype, shape = json.loads(part.removeprefix(_TENSOR))
        return keras.Input(type_spec=tf.TensorSpec(shape, dtype))

    # HDF5 files name registered classes without their package.
    registered = keras.saving.get_custom_objects().items()
    with keras.utils.custom_object_scope({name.rpartition(">")[2]: cls for name, cls in registered}):
        layer = keras.layers.deserialize(config)
    if call is not None:
        args, kwargs = map_leaves(made, call)
        layer(*args, **kwargs)
        keras_internals.forget_losses(layer)
    return layer


class KeepsCallContract:
    """Mixin for a Keras `Wrapper` that calls `self.layer.call`, so that masks pass as if there were no wrapper."""

    layer: Any

    def adopt_call_contract(self) -> None:
        """Copy the call contract of `self.layer`; call this after setting it."""
        self.supports_masking = self.layer.supports_masking
        keras_internals.take_masks_as(self, self.layer)
        keras_internals.regularize_output_as(self, self.layer)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask that the inner layer would pass on."""
        return self.layer.compute_mask(inputs, mask)
