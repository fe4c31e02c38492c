"""The only access to tf_keras, TF-MOT and TF-Hub.

TF-MOT accepts tf_keras (Keras 2) models only. Importing it sets `TF_USE_LEGACY_KERAS=1` for the whole process and,
unless `tf.keras` was used before, turns `tf.keras` into Keras 2. So no other module of tfopt imports these packages
directly: the functions below import them late and leave `os.environ` and `tf.keras` unchanged.
"""

import contextlib
import functools
import importlib
import os
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_SWITCH = "TF_USE_LEGACY_KERAS"


def _import_quietly(name: str) -> ModuleType:
    import tensorflow as tf

    _ = tf.keras.layers  # resolves `tf.keras` by the user's own settings
    before = os.environ.get(_SWITCH)
    try:
        return importlib.import_module(name)
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before


@functools.cache
def tf_keras() -> Any:
    """Return the package `tf_keras`, the one that TF-MOT uses."""
    return _import_quietly("tf_keras")


@functools.cache
def tfmot() -> Any:
    """Return the package `tensorflow_model_optimization`."""
    tf_keras()
    return _import_quietly("tensorflow_model_optimization")


def tfmot_module(path: str) -> Any:
    """Return a private module of TF-MOT, e.g. `tfmot_module("sparsity.keras.pruning_wrapper")`."""
    tfmot()
    return importlib.import_module(f"tensorflow_model_optimization.python.core.{path}")


@functools.cache
def hub() -> Any:
    """Return the package `tensorflow_hub`."""
    tf_keras()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which emits a warning
        return _import_quietly("tensorflow_hub")


@contextlib.contextmanager
def float32_layers() -> Iterator[None]:
    """Make new tf_keras layers float32 within the block (or decorated function), whatever the global policy is.

    The flat model computes in float32 throughout; layers that TF-MOT puts around its layers take the global policy.
    """
    precision = tf_keras().mixed_precision
    before = precision.global_policy()
    precision.set_global_policy("float32")
    try:
        yield
    finally:
        precision.set_global_policy(before)


def is_tf_keras_model(model: object) -> bool:
    """Return whether `model` is a tf_keras model; imports nothing for a Keras 3 one."""
    return any(c.__module__.partition(".")[0] == "tf_keras" and c.__name__ == "Model" for c in type(model).__mro__)


def is_keras3_model(model: object) -> bool:
    """Return whether `model` is a Keras 3 model."""
    return any(c.__module__.partition(".")[0] == "keras" and c.__name__ == "Model" for c in type(model).__mro__)


def keras_of(model: object) -> Any:
    """Return the package of `model`: `keras` or `tf_keras`."""
    if is_keras3_model(model):
        import keras

        return keras
    return tf_keras()


def unwrapped(layer: Any) -> Any:
    """Return the caller's layer inside a TF-MOT wrapper, or `layer` itself.

    Wrappers are recognized by their module: other layers, e.g. `TimeDistributed`, are `Wrapper`s too.
    """
    return (
        layer.layer
        if type(layer).__module__.startswith(("tensorflow_model_optimization", "tfopt")) and hasattr(layer, "layer")
        else layer
    )


def wrapped_layers(model: Any) -> dict[str, Any]:
    """Return the (wrapped) layers of `model`, keyed by the name of the layer inside."""
    return {unwrapped(layer).name: layer for layer in model.layers}
