"""`hub.KerasLayer` inside a tf_keras model, replaced by native layers."""

import contextlib
from typing import Any

from tfopt import bridge
from tfopt.base.keras_compat import is_tf_keras_model, tf_keras
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Ref, replay
from tfopt.graph.walk import is_model, walk
from tfopt.models.rebuild import NoLayerError, rebuilt


def is_hub_layer(layer: Any) -> bool:
    """Return whether `layer` is a `hub.KerasLayer`, without importing TF-Hub."""
    return any(kind.__name__ == "KerasLayer" and "hub" in kind.__module__ for kind in type(layer).__mro__)


def hub_layers(model: Any) -> list[Any]:
    """Return the TF-Hub layers of `model` and of the models in it, each once."""
    if not is_tf_keras_model(model):  # Keras 3 takes none
        return []
    with contextlib.suppress(Exception):  # a subclassed model that is not built: whoever needs its graph says so
        return [layer for layer in keras_internals.sublayers(model, recursive=True) if is_hub_layer(layer)]
    return []


def with_native_layers(model: Any) -> Any:
    """Return `model` with the layers of its TF-Hub modules in the places of the modules; `model` itself without any.

    The layers have the weights that the modules have now, trained or not, and compute the same on random inputs; those
    of a frozen module are frozen. The new model shares all other layers with `model`, and is compiled the same way.

    Raises:
        ModelError: a module cannot be rebuilt; the message names the layer and why.
    """
    if not is_model(model) or not hub_layers(model):
        return model
    graph = walk(model, keep_names=True)
    natives = {leaf.name: _native(leaf.layer, leaf.name) for leaf in graph.leaves if is_hub_layer(leaf.layer)}
    tensors: dict[Ref, Any] = {
        spec.ref: tf_keras().Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name) for spec in graph.inputs
    }
    inputs, outputs = replay(
        graph,
        tensors,
        lambda leaf, args, kwargs: natives[leaf.name](args[0]) if leaf.name in natives else leaf.layer(*args, **kwargs),
    )
    result = tf_keras().Model(inputs, outputs, name=model.name)
    if bridge.is_compiled(model):
        bridge.compile_like(result, model)
    return result


def native_if_possible(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Return `with_native_layers(model)` and notes; `model` itself, and why, if a module cannot be rebuilt.

    Raises:
        ModelError: as `with_native_layers`, for a module whose variables Keras does not know.
    """
    found = hub_layers(model)
    try:
        native = with_native_layers(model)
    except ModelError as error:
        if any(not layer.weights for layer in found):
            raise
        return model, (str(error),)
    return native, tuple(f"the TF-Hub layer '{layer.name}' as native layers" for layer in found)


def _native(layer: Any, name: str) -> Any:
    """Return a tf_keras model of native layers that computes what the TF-Hub `layer` does."""
    import tensorflow as tf

    given = layer.get_input_at(0)
    if not tf.is_tensor(given) and not hasattr(given, "shape"):
        raise ModelError(_refusal(name, "it takes several inputs"))

    def call(x: Any) -> Any:
        return layer(x, training=False)

    try:
        function = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec(given.shape, given.dtype))
        if len(function.outputs) != 1:
            raise NoLayerError(f"it gives {len(function.outputs)} outputs")
        native, _ = rebuilt(function, tf_keras(), name=name)
    except ModelError as error:
        raise ModelError(_refusal(name, str(error))) from error
    if not layer.trainable:
        native.trainable = False
    return native


def _refusal(name: str, why: str) -> str:
    return (
        f"The TF-Hub layer '{name}' cannot be rebuilt from Keras layers: {why.rstrip('.')}. No stage can reach "
        "its weights. Use a model of native layers instead, or compress only the layers behind it."
    )
