"""Conversion of a flat tf_keras model to Keras 3, which the bridge lacks, for models that tf_keras stored."""

import inspect
from collections.abc import Sequence
from typing import Any

from tfopt.base import keras_compat
from tfopt.bridge import weights
from tfopt.bridge.layers import RENAMED, init_arguments
from tfopt.bridge.policy import policy_name
from tfopt.bridge.twins import SAME_NAME
from tfopt.errors import ModelError
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Leaf, Ref, flatten, replay
from tfopt.graph.walk import walk
from tfopt.models.rebuild.frozen import NoLayerError

_RENAMED_BACK = {(kind, theirs): ours for (kind, ours), theirs in RENAMED.items()}


def in_keras(flat: Any, package: Any, shape: Sequence[int | None], name: str) -> Any:
    """Return a new model of `package` (`keras` or `tf_keras`) with the layers of `flat`, a flat tf_keras model.

    Names, weights and `trainable` flags are the same; the input is (batch, *shape). It is not compiled.

    Raises:
        NoLayerError: Keras 3 has no such layer, or there are several inputs or outputs.
    """
    graph = walk(flat, keep_names=True)
    if len(graph.inputs) != 1 or len(flatten(graph.outputs_struct)) != 1:
        raise NoLayerError("the model that tf_keras stored in it has several inputs or outputs")
    (given,) = graph.inputs
    make = _in_keras3 if package.__name__ == "keras" else _copied
    try:
        layers = {id(leaf): make(leaf.layer) for leaf in graph.leaves}
        tensors: dict[Ref, Any] = {
            given.ref: package.Input(shape=tuple(shape), dtype=given.dtype, name=given.name),
        }

        def run(leaf: Leaf, args: list[Any], kwargs: dict[str, Any]) -> Any:
            return layers[id(leaf)](*args, **kwargs)

        inputs, outputs = replay(graph, tensors, run)
        for leaf in graph.leaves:
            weights.copy(leaf.layer, layers[id(leaf)])
            layers[id(leaf)].trainable = leaf.trainable
    except ModelError as error:
        raise NoLayerError(f"the layers that tf_keras stored in it cannot be used: {error}") from error
    except Exception as error:  # Keras may raise anything for an argument that it does not accept
        reason = " ".join(str(error).split())[:200]
        raise NoLayerError(f"the layers that tf_keras stored in it cannot be rebuilt ({reason})") from error
    return package.Model(flatten(inputs)[0], flatten(outputs)[0], name=name)


def _copied(layer: Any) -> Any:
    with keras_compat.tf_keras().saving.custom_object_scope({type(layer).__name__: type(layer)}):
        return type(layer).from_config(layer.get_config())


def _in_keras3(layer: Any) -> Any:
    """Return the Keras 3 layer of the same name that computes the same."""
    import keras

    kind = type(layer).__name__
    if kind not in SAME_NAME or not type(layer).__module__.startswith("tf_keras."):
        raise NoLayerError(f"Keras 3 has no equivalent for '{layer.name}' ({kind})")
    cls = getattr(keras.layers, kind)
    accepted, defaults = init_arguments(cls), inspect.signature(type(layer).__init__).parameters
    config: dict[str, Any] = {}
    for key, value in layer.get_config().items():
        name = _RENAMED_BACK.get((kind, key), key)
        if value == "hard_sigmoid":
            raise NoLayerError(f"Keras 3 has no equivalent for the hard_sigmoid of tf_keras in '{layer.name}'")
        if name in accepted and not key.endswith("_initializer"):  # the weights are copied
            config[name] = value
        elif name not in accepted and key in defaults and value != defaults[key].default:
            raise NoLayerError(f"Keras 3 has no equivalent for {key}={value!r} of '{layer.name}' ({kind})")
    if facts_of(layer).family == "batch_norm":
        (config["axis"],) = flatten(list(config["axis"]) if isinstance(config["axis"], list) else config["axis"])
    return cls(**{**config, "dtype": policy_name(layer)})
