"""Keras 3 layers whose tf_keras twin takes more than a translated config: layers around layers, state kept in
lookup tables, and the layers that `keras.applications` brings for itself."""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base import keras_compat
from tfopt.bridge import layers, native
from tfopt.bridge.activations import NoTwinError
from tfopt.graph.walk import is_model

Made = tuple[Any, dict[str, Any]]  # a class and the arguments to make it with


def _recurrent(layer: Any) -> Made:
    cls = getattr(keras_compat.tf_keras().layers, type(layer).__name__)
    return cls, {**layers.translated(layer, cls), **_zero_output(layer)}


def _zero_output(layer: Any) -> dict[str, Any]:
    # tf_keras takes it as a keyword that no signature names.
    return {"zero_output_for_mask": True} if getattr(layer, "zero_output_for_mask", False) else {}


def _rnn(layer: Any) -> Made:
    names = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
    config = {name: getattr(layer, name) for name in names}
    return keras_compat.tf_keras().layers.RNN, {"cell": layers.made_twin(layer.cell), **config, **_zero_output(layer)}


def _stacked(layer: Any) -> Made:
    return keras_compat.tf_keras().layers.StackedRNNCells, {"cells": [layers.made_twin(cell) for cell in layer.cells]}


def _bidirectional(layer: Any) -> Made:
    # tf_keras puts "forward_" and "backward_" in front of the names itself.
    config = {
        "layer": layers.made_twin(layer.forward_layer, name=layer.forward_layer.name.removeprefix("forward_")),
        "backward_layer": layers.made_twin(
            layer.backward_layer, name=layer.backward_layer.name.removeprefix("backward_")
        ),
        "merge_mode": layer.merge_mode,
    }
    return keras_compat.tf_keras().layers.Bidirectional, config


def _time_distributed(layer: Any) -> Made:
    inner = layer.layer
    if is_model(inner):
        from tfopt.bridge import build

        twin = build.flat_twin(inner)
    else:
        twin = layers.made_twin(inner)
    return keras_compat.tf_keras().layers.TimeDistributed, {"layer": twin}


def _activation(layer: Any) -> Made:
    tf_keras = keras_compat.tf_keras()
    if layer.get_config()["activation"] == "relu6":
        # TF-MOT quantizes the layer ReLU(6), not the function.
        return tf_keras.layers.ReLU, {"max_value": 6.0, "dtype": layers.float_policy(layers.policy_name(layer))}
    return tf_keras.layers.Activation, layers.translated(layer, tf_keras.layers.Activation)


def _lookup(layer: Any) -> Made:
    cls = getattr(keras_compat.tf_keras().layers, type(layer).__name__)
    config = layers.translated(layer, cls)
    config.pop("dtype", None)  # of Keras 3's policy; tf_keras derives it from the mode
    config["vocabulary"] = layer.get_vocabulary(include_special_tokens=False) or None
    for name in ("standardize", "split"):
        if not isinstance(config.get(name), (str, type(None))):
            raise NoTwinError(f"tf_keras has no equal for its argument {name}, a function")
    if config.get("output_mode") == "tf_idf":
        raise NoTwinError("tf_keras has no equal for its argument output_mode='tf_idf'")
    return cls, config


def _discretization(layer: Any) -> Made:
    cls = keras_compat.tf_keras().layers.Discretization
    config = layers.translated(layer, cls)
    config.pop("dtype", None)
    bounds = config.get("bin_boundaries")
    config["bin_boundaries"] = [float(bound) for bound in (layer.bin_boundaries if bounds is None else bounds)]
    config["num_bins"] = None
    return cls, config


def _of_applications(cls: Callable[[], Any], *names: str) -> Callable[[Any], Made]:
    def build(layer: Any) -> Made:
        config = {name: layer.get_config()[name] for name in names}
        return cls(), {**config, "dtype": layers.float_policy(layers.policy_name(layer))}

    return build


# Class in Keras 3 -> what makes its twin; each raises NoTwinError where it has none.
BUILDERS: dict[str, Callable[[Any], Made]] = {
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
}
