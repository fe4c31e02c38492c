"""The tf_keras twin of each Keras 3 layer: namesakes, and builders for those that need more than a translated config.

Builders cover layers around layers, state in lookup tables, and the custom layers of `keras.applications`.
"""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base import keras_compat
from tfopt.bridge import native, policy
from tfopt.bridge.activations import NoTwinError
from tfopt.bridge.layers import translated
from tfopt.graph import keras_internals
from tfopt.graph.walk import is_model

# Keras 3 layers whose namesake in tf_keras computes the same. To add one, name it here, put the config keys that
# differ in layers.py, and add a row to tests/bridge/test_layers.py.
SAME_NAME = (
    "Dense", "EinsumDense", "Embedding", "Identity", "Masking",
    "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
    "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization",
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D",
    "AveragePooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D",
    "UpSampling1D", "UpSampling2D", "UpSampling3D",
    "Flatten", "Reshape", "Permute", "RepeatVector",
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout",
    "AlphaDropout",
    "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax", "ActivityRegularization",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot",
    "SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D",
    "MultiHeadAttention", "Attention", "AdditiveAttention",
    "Rescaling", "Normalization", "Resizing", "CenterCrop", "Discretization", "Hashing", "HashedCrossing",
    "CategoryEncoding", "IntegerLookup", "StringLookup", "TextVectorization",
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness",
)  # fmt: skip

Made = tuple[Any, dict[str, Any]]  # a class and its constructor arguments
ToFlatModel = Callable[[Any], Any]  # makes the flat tf_keras model of a whole model


def _recurrent(layer: Any, _: ToFlatModel) -> Made:
    cls = getattr(keras_compat.tf_keras().layers, type(layer).__name__)
    return cls, {**translated(layer, cls), **_zero_output(layer)}


def _zero_output(layer: Any) -> dict[str, Any]:
    # tf_keras accepts it as a keyword that no signature names.
    return {"zero_output_for_mask": True} if getattr(layer, "zero_output_for_mask", False) else {}


def _rnn(layer: Any, to_flat_model: ToFlatModel) -> Made:
    names = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
    config = {name: getattr(layer, name) for name in names}
    return keras_compat.tf_keras().layers.RNN, {
        "cell": made_twin(layer.cell, to_flat_model),
        **config,
        **_zero_output(layer),
    }


def _stacked(layer: Any, to_flat_model: ToFlatModel) -> Made:
    return keras_compat.tf_keras().layers.StackedRNNCells, {
        "cells": [made_twin(cell, to_flat_model) for cell in layer.cells]
    }


def _bidirectional(layer: Any, to_flat_model: ToFlatModel) -> Made:
    # tf_keras itself prefixes the names with "forward_" and "backward_".
    config = {
        "layer": made_twin(layer.forward_layer, to_flat_model, name=layer.forward_layer.name.removeprefix("forward_")),
        "backward_layer": made_twin(
            layer.backward_layer, to_flat_model, name=layer.backward_layer.name.removeprefix("backward_")
        ),
        "merge_mode": layer.merge_mode,
    }
    return keras_compat.tf_keras().layers.Bidirectional, config


def _time_distributed(layer: Any, to_flat_model: ToFlatModel) -> Made:
    inner = layer.layer
    twin = to_flat_model(inner) if is_model(inner) else made_twin(inner, to_flat_model)
    return keras_compat.tf_keras().layers.TimeDistributed, {"layer": twin}


def _activation(layer: Any, _: ToFlatModel) -> Made:
    tf_keras = keras_compat.tf_keras()
    if layer.get_config()["activation"] == "relu6":
        # TF-MOT quantizes the layer ReLU(6), not the function.
        return tf_keras.layers.ReLU, {"max_value": 6.0, "dtype": policy.float_policy(policy.policy_name(layer))}
    return tf_keras.layers.Activation, translated(layer, tf_keras.layers.Activation)


def _lookup(layer: Any, _: ToFlatModel) -> Made:
    cls = getattr(keras_compat.tf_keras().layers, type(layer).__name__)
    config = translated(layer, cls)
    config.pop("dtype", None)  # from Keras 3's policy; tf_keras derives it from the mode
    config["vocabulary"] = layer.get_vocabulary(include_special_tokens=False) or None
    for name in ("standardize", "split"):
        if not isinstance(config.get(name), (str, type(None))):
            raise NoTwinError(f"tf_keras has no equivalent for its argument {name}, a function")
    if config.get("output_mode") == "tf_idf":
        raise NoTwinError("tf_keras has no equivalent for its argument output_mode='tf_idf'")
    return cls, config


def _discretization(layer: Any, _: ToFlatModel) -> Made:
    cls = keras_compat.tf_keras().layers.Discretization
    config = translated(layer, cls)
    config.pop("dtype", None)
    bounds = config.get("bin_boundaries")
    config["bin_boundaries"] = [float(bound) for bound in (layer.bin_boundaries if bounds is None else bounds)]
    config["num_bins"] = None
    return cls, config


def _of_applications(cls: Callable[[], Any], *names: str) -> Callable[[Any, ToFlatModel], Made]:
    def build(layer: Any, _: ToFlatModel) -> Made:
        config = {name: layer.get_config()[name] for name in names}
        return cls(), {**config, "dtype": policy.float_policy(policy.policy_name(layer))}

    return build


def _rms_normalization(layer: Any, _: ToFlatModel) -> Made:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axes != [-1]:
        raise NoTwinError("tfopt's twin normalizes over the last axis, -1")
    dtype = policy.float_policy(policy.policy_name(layer))
    return native.classes("RMSNormalization"), {"epsilon": layer.epsilon, "dtype": dtype}


# Keras 3 class -> builder of its twin, which raises NoTwinError if there is none.
BUILDERS: dict[str, Callable[[Any, ToFlatModel], Made]] = {
    **dict.fromkeys(("SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _recurrent),
    "RNN": _rnn,
    "StackedRNNCells": _stacked,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "Activation": _activation,
    **dict.fromkeys(("IntegerLookup", "StringLookup", "TextVectorization"), _lookup),
    "Discretization": _discretization,
    "LayerScale": _of_applications(functools.partial(native.classes, "LayerScale"), "init_values", "projection_dim"),
    "StochasticDepth": _of_applications(functools.partial(native.classes, "StochasticDepth"), "drop_path_rate"),
    "CustomScaleLayer": _of_applications(functools.partial(native.classes, "ScaledAdd"), "scale"),
    "RMSNormalization": _rms_normalization,
}


def keras3_twin(layer: Any, to_flat_model: ToFlatModel) -> Made:
    """Return the tf_keras class equivalent to a Keras 3 `layer`, and its constructor arguments.

    `to_flat_model` makes the flat model of a model inside the layer.

    Raises:
        NoTwinError: there is no equivalent, or none with this layer's arguments.
    """
    if not keras_internals.is_part_of_keras3(layer):
        raise NoTwinError("a custom layer")
    if build := BUILDERS.get(type(layer).__name__):
        return build(layer, to_flat_model)
    if type(layer).__name__ not in SAME_NAME:
        raise NoTwinError("tf_keras has no such layer")
    cls = getattr(keras_compat.tf_keras().layers, type(layer).__name__)
    return cls, translated(layer, cls)


def made_twin(layer: Any, to_flat_model: ToFlatModel, **changes: Any) -> Any:
    """Return the tf_keras layer of `keras3_twin` under the layer's own name; for layers inside layers."""
    cls, config = keras3_twin(layer, to_flat_model)
    return cls(**{**config, "name": layer.name, "trainable": layer.trainable, **changes})
