"""Building of a Keras model from a list of layers, and the check that it computes what the module does."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfopt.bridge import activations
from tfopt.bridge.layers import RENAMED
from tfopt.graph.layer_facts import facts_named
from tfopt.models.rebuild.frozen import NoLayerError
from tfopt.models.rebuild.layer import Layer
from tfopt.models.rebuild.reading import Program

TOLERANCE = 1e-4  # relative to the largest output; float32 sums in another order differ by 1e-7 to 1e-5
_FREE_AXIS = 64  # size used for None in a shape
_SAMPLES = 2
_CALLS = re.compile(r"(Stateful)?PartitionedCall(_\d+)?|Func|inference_.*")


def build(program: Program, package: Any, shape: Sequence[int | None], name: str) -> Any:
    """Return the functional model of `package` (`keras` or `tf_keras`) on float32 inputs (batch, *shape).

    A layer is trainable unless the module marks all its weights as not trainable. Operations that share variables share
    a layer.

    Raises:
        NoLayerError: Keras rejects a layer.
    """
    inputs = package.Input(shape=tuple(shape), dtype="float32", name="input")
    tensors: dict[int, Any] = {id(None): inputs}
    shared: dict[Any, tuple[Any, list[np.ndarray]]] = {}
    for layer, called in zip(program.layers, _names(program.layers), strict=True):
        taken = [tensors[id(each)] for each in layer.inputs]
        key = (layer.kind, json.dumps(layer.config), *map(id, layer.variables)) if layer.variables else called
        live, weights = shared.get(key, (None, []))
        again = live is not None and all(map(np.array_equal, weights, layer.weights))
        try:
            live = live if again else _made(layer, package, called)
            tensors[id(layer)] = live(taken[0] if len(taken) == 1 else taken)
            if layer.weights and not again:
                live.set_weights(layer.weights)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise NoLayerError(f"Keras refuses {layer.kind} in place of '{layer.path}' ({reason})") from error
        shared[key] = live, layer.weights
    return package.Model(inputs, tensors[id(program.output)], name=_clean(name))


def _made(layer: Layer, package: Any, name: str) -> Any:
    config = dict(layer.config)
    if package.__name__ == "tf_keras":
        config = {RENAMED.get((layer.kind, key), key): value for key, value in config.items()}
        if "activation" in config:
            config["activation"] = activations.twin(config["activation"])
    if facts_named(layer.kind).data_format:  # otherwise it would follow the user's global setting
        config["data_format"] = "channels_last"
    trainable = not layer.variables or any(variable.trainable for variable in layer.variables)
    return getattr(package.layers, layer.kind)(**config, name=name, dtype="float32", trainable=trainable)


def _names(layers: Sequence[Layer]) -> list[str]:
    """Return a name for each layer, from its variables in the module or its operation, as short as possible."""
    owners = [_path(layer.variables[0].name) if layer.weights and layer.variables else () for layer in layers]
    places = [tuple(part for part in _path(layer.path) if not _CALLS.fullmatch(part)) for layer in layers]
    taken, names = {"input"}, []
    for layer, owner, place in zip(layers, owners, places, strict=True):
        if owner[:-1]:
            first = _shortest(owner[:-1], [other[:-1] for other in owners])
            candidates = [first, f"{first}_{owner[-1]}"]
        else:
            candidates = [_shortest(place, places) if place else layer.kind.lower()]
        candidates = [_clean(each) for each in candidates]
        number, name = 1, next((each for each in candidates if each not in taken), candidates[0])
        while name in taken:
            number += 1
            name = f"{candidates[0]}_{number}"
        taken.add(name)
        names.append(name)
    return names


def _path(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.partition(":")[0].split("/") if part)


def _shortest(path: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    """Return the shortest end of `path` that distinguishes it from the `others`."""
    for start in range(len(path) - 1, 0, -1):
        if not any(other != path and other[-len(path[start:]) :] == path[start:] for other in others):
            return "_".join(path[start:])
    return "_".join(path)


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-") or "module"


def check_equal(model: Any, function: Callable[[Any], Any], batch: int | None) -> None:
    """Raise NoLayerError unless `model` and `function` agree on random inputs in 0..1 and in -1..1.

    Integer inputs are 0 and 1. Outputs may differ by 1e-4 of the largest. `function` is called on `batch` samples at a
    time, or on any number if that is None.
    """
    import tensorflow as tf

    given = model.inputs[0]
    dtype = tf.as_dtype(given.dtype)
    if not (dtype.is_floating or dtype.is_integer):
        raise NoLayerError(f"layers for {dtype.name} inputs cannot be checked on random samples")
    rng = np.random.default_rng(0)
    shape = (batch or _SAMPLES, *(size or _FREE_AXIS for size in given.shape[1:]))
    for low in (0.0, -1.0):
        x = tf.constant(rng.uniform(low, 1.0, shape) if dtype.is_floating else rng.integers(0, 2, shape), dtype)
        try:
            expected, got = np.asarray(function(x)), np.asarray(model(x, training=False))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise NoLayerError(f"layers and graph do not both run on inputs of shape {shape} ({reason})") from error
        if expected.shape != got.shape:
            raise NoLayerError(f"the layers give outputs of shape {got.shape}, the graph of shape {expected.shape}")
        allowed = TOLERANCE * max(float(np.abs(expected).max(initial=0)), 1e-3)
        difference = float(np.abs(expected.astype(np.float64) - got).max(initial=0))
        if not difference <= allowed:  # also true for NaN
            raise NoLayerError(f"the layers give different outputs, by up to {difference:.3g} (allowed: {allowed:.1g})")
