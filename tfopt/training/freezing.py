"""Freeze layers up to a given one, or train from a given one on, with a choice for BatchNorm."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.lookup import missing
from tfopt.graph.types import Leaf, is_layer
from tfopt.graph.walk import walk
from tfopt.training.batchnorm import has_seen_data

BatchNorm = Literal["frozen", "train"]


def frozen(model: Any, until: str | int | None = None, *, batchnorm: BatchNorm = "train") -> Any:
    """Return a new model like `model` with layers up to and including `until` frozen, and all later ones trainable.

    The schedule of fine-tuning (Howard & Ruder 2018, arXiv:1801.06146, section 3.3): compile and fit `frozen(model)`,
    then `unfrozen(..., since=...)` with lower rates, layer by layer if you like. A frozen BatchNorm runs in inference
    mode, in `fit` too.

    Args:
        model: a Keras 3 or tf_keras model. It is not changed; the result has the same Keras, weights and compile
            settings.
        until: the last frozen layer in calling order: the name or path ("backbone/conv") of a layer, the name of a
            submodel, which is frozen as a whole, or the number of layers with weights. None freezes all but the last
            layer with weights.
        batchnorm: "train" treats BatchNorm like any other layer. "frozen" keeps every pretrained one in inference mode,
            even if its neighbors train, so that small batches do not corrupt its statistics; the other layers then
            tolerate only lower learning rates. One that has never seen data (mean 0, variance 1) trains with its
            neighbors.

    Returns:
        The new model.

    Raises:
        ModelError: an unknown layer (the message suggests the nearest names), an ambiguous name, a number out of range,
            or nothing left to train.

    Examples:
        >>> head_first = tfopt.training.frozen(model)
        >>> [layer.name for layer in head_first.layers if layer.weights and layer.trainable]
        ['head']
    """
    leaves = layers_in_order(model)
    if until is None:
        first = last_with_weights(leaves, model.name)
    elif isinstance(until, str):
        first = _span(leaves, until, model.name)[1] + 1
    else:
        first = _after(leaves, until, model.name)
    return _trained_from(model, leaves, first, batchnorm)


def unfrozen(model: Any, since: str | None = None, *, batchnorm: BatchNorm = "train") -> Any:
    """Return a new model like `model` that trains from layer `since` on, inclusive; all layers before it are frozen.

    Args:
        model: a Keras 3 or tf_keras model. It is not changed.
        since: the name or path of a layer or submodel; None trains all layers.
        batchnorm: see `frozen`.

    Returns:
        The new model.

    Raises:
        ModelError: as for `frozen`.

    Examples:
        >>> more = tfopt.training.unfrozen(tfopt.training.frozen(model), since="second")
        >>> [layer.name for layer in more.layers if layer.weights and layer.trainable]
        ['second', 'head']
    """
    leaves = layers_in_order(model)
    return _trained_from(model, leaves, 0 if since is None else _span(leaves, since, model.name)[0], batchnorm)


def layers_in_order(model: Any) -> list[Leaf]:
    """Return the layers of `model`, of either Keras, in calling order; submodels are expanded."""
    return [leaf for leaf in walk(model, keep_names=True).leaves if is_layer(leaf.layer)]


def last_with_weights(leaves: Sequence[Leaf], model: str) -> int:
    """Return the position of the last of `leaves` that has weights. Raise ModelError if none of `model` has."""
    found = [position for position, leaf in enumerate(leaves) if leaf.layer.weights]
    if not found:
        raise ModelError(f"Model '{model}' has no layer with weights, so there is nothing to train or freeze.")
    return found[-1]


def first_trained(leaves: Sequence[Leaf], name: str, model: str) -> int:
    """Return the position in `leaves` of a flat model at which training starts if `name` is the first trained layer.

    A path "outer/inner/layer" refers to the bridge's flat name for that layer.

    Raises:
        ModelError: there is no such layer.
    """
    parts = name.split("/")
    flat = ["_".join(parts[start:]) for start in range(len(parts))]
    known = {leaf.name for leaf in leaves}
    return _span(leaves, next((each for each in flat if each in known), name), model)[0]


def pretrained_batchnorms(layer: Any, package: Any) -> list[Any]:
    """Return the BatchNorms in `layer`, inclusive, that have seen data; `package` is `keras` or `tf_keras`."""
    parts = keras_internals.flat_layers(layer)
    return [part for part in parts if isinstance(part, package.layers.BatchNormalization) and has_seen_data(part)]


def _span(leaves: Sequence[Leaf], name: str, model: str) -> tuple[int, int]:
    """Return the first and the last position of the layer or submodel `name` in `leaves`."""
    own = [leaf.path.rpartition("/")[2] for leaf in leaves]
    paths = [leaf.path for leaf in leaves]
    for matches in (
        [position for position, path in enumerate(paths) if path == name],
        [position for position, each in enumerate(own) if each == name],
        [position for position, path in enumerate(paths) if f"/{name}/" in f"/{path}"],
    ):
        places = {f"/{paths[position]}/".partition(f"/{name}/")[0] for position in matches}
        if len(places) > 1:
            found = ", ".join(paths[position] for position in matches)
            raise ModelError(f"'{name}' matches {len(places)} layers in '{model}'; give a path: {found}")
        if matches:
            return matches[0], matches[-1]
    submodels = (str(parent) for path in paths for parent in list(PurePosixPath(path).parents)[:-1])
    raise missing(name, model, dict.fromkeys([*own, *paths, *submodels]))


def _after(leaves: Sequence[Leaf], count: int, model: str) -> int:
    """Return the position after the first `count` of `leaves` that have weights."""
    weighted = [position for position, leaf in enumerate(leaves) if leaf.layer.weights]
    if not 0 <= count < len(weighted):
        raise ModelError(
            f"Model '{model}' has {len(weighted)} layers with weights; expected from 0 to {len(weighted) - 1} of "
            f"them to be frozen, got {count}."
        )
    return weighted[count]


def _trained_from(model: Any, leaves: Sequence[Leaf], first: int, batchnorm: BatchNorm) -> Any:
    """Return a copy of `model`, whose layers are `leaves`, that is trained from position `first` on."""
    if batchnorm not in ("frozen", "train"):
        raise ModelError(f'Expected batchnorm="frozen" or "train"; got {batchnorm!r}.')
    copy = bridge.to_keras(bridge.to_tf_keras(model), like=model)
    package = keras_compat.keras_of(model)
    for part in keras_internals.flat_layers(copy):
        part.trainable = True  # one by one: Keras 3 does not recurse if a model already has this flag
    for position, layer in enumerate(_counterparts(leaves, layers_in_order(copy))):
        if position < first:
            layer.trainable = False
        elif batchnorm == "frozen":
            for norm in pretrained_batchnorms(layer, package):
                norm.trainable = False
    if not copy.trainable_weights:
        raise ModelError(f"Nothing of '{model.name}' would be left to train; freeze fewer layers.")
    if bridge.is_compiled(model):
        bridge.compile_like(copy, model)  # recompile: a compiled tf_keras model ignores changed flags
    return copy


def _counterparts(leaves: Sequence[Leaf], copies: Sequence[Leaf]) -> list[Any]:
    """Return the layer among `copies` for each of `leaves`: by name, or by order if a subclass renumbers layers."""
    by_name = {leaf.name: leaf.layer for leaf in copies}
    if by_name.keys() == {leaf.name for leaf in leaves}:
        return [by_name[leaf.name] for leaf in leaves]
    return [leaf.layer for leaf in copies]
