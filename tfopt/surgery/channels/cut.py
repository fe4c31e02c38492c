"""A model without some of its channels, and the same model with these channels at zero."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfopt.bridge.build import build, plans_of
from tfopt.errors import ModelError
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Leaf, flatten, is_layer
from tfopt.surgery.channels.groups import Channels
from tfopt.surgery.channels.trace import Kept

LARGEST_DIFFERENCE = 1e-5
"""Largest allowed difference between the outputs of the two models, relative to the largest output."""


def without_channels(channels: Channels, removed: Iterable[int], samples: Any = None) -> Any:
    """Return a new flat tf_keras model without the channels `removed`.

    Args:
        channels: of the flat model that holds the weights.
        removed: roots of groups.
        samples: inputs, as `predict` takes them, on which the result is compared with the model with these channels at
            zero; None skips that.

    Raises:
        ModelError: the outputs differ.
    """
    gone = list(removed)
    kept, graph = channels.kept(gone), channels.trace.graph
    changes = {leaf.name: _settings(leaf, channels, kept) for leaf in graph.leaves}
    values = {leaf.name: _values(leaf, channels, kept) for leaf in graph.leaves if is_layer(leaf.layer)}
    result = build(graph, plans_of(graph), changes={k: v for k, v in changes.items() if v}, values=values)
    if samples is not None:
        difference = _difference(masked(channels, gone), result, samples)
        if difference > LARGEST_DIFFERENCE:
            raise _not_equal(channels, gone, difference, samples)
    return result


def masked(channels: Channels, removed: Iterable[int]) -> Any:
    """Return a copy of the flat model of `channels` in which the weights of the channels `removed` are zero."""
    graph = channels.trace.graph
    result = build(graph, plans_of(graph))
    twins = {layer.name: layer for layer in result.layers}
    layers = {leaf.name: leaf.layer for leaf in graph.leaves}
    for name, masks in masks_by_layer(channels, removed).items():
        arrays = map(np.asarray, layers[name].weights)
        twins[name].set_weights([a * mask.astype(a.dtype) for a, mask in zip(arrays, masks, strict=True)])
    return result


def masks_by_layer(channels: Channels, removed: Iterable[int]) -> dict[str, list[np.ndarray]]:
    """Return a mask for each weight of all layers, by name: 0 for what belongs to the channels `removed`, else 1."""
    kept, found = channels.kept(removed), {}
    for leaf in channels.trace.graph.leaves:
        if not is_layer(leaf.layer) or not leaf.layer.weights:
            continue
        arrays = [np.ones(weight.shape, np.float32) for weight in leaf.layer.weights]
        for index, slots in channels.slots_of(leaf.name).items():
            for slot in slots:
                shape = [1] * arrays[index].ndim
                shape[slot.axis] = -1
                arrays[index] = arrays[index] * kept(slot.atoms).reshape(shape)
        found[leaf.name] = arrays
    return found


def _values(leaf: Leaf, channels: Channels, kept: Kept) -> list[np.ndarray]:
    """Return the weights of a layer without the slices that go."""
    arrays = [np.array(weight) for weight in leaf.layer.weights]
    for index, slots in channels.slots_of(leaf.name).items():
        for slot in slots:
            arrays[index] = np.compress(kept(slot.atoms), arrays[index], axis=slot.axis)
    for (name, index), widths in channels.trace.scaled.items():
        if name == leaf.name:
            arrays[index] = arrays[index] * np.sqrt(kept(widths).mean(), dtype=arrays[index].dtype)
    return arrays


def _settings(leaf: Leaf, channels: Channels, kept: Kept) -> dict[str, Any]:
    """Return the settings of a layer that change."""
    stated = channels.trace.settings.get(leaf.name, {})
    found = {name: value(kept) for name, value in stated.items()}
    if found and facts_of(leaf.layer).family == "time_distributed":
        inner = leaf.layer.get_config()["layer"]
        return {"layer": {**inner, "config": {**inner["config"], **found}}}
    return found


def _difference(before: Any, after: Any, samples: Any) -> float:
    """Return the largest difference of the outputs of two models, relative to the largest output."""
    largest = 0.0
    for one, other in zip(*(_outputs(model, samples) for model in (before, after)), strict=True):
        if not np.array_equal(np.isnan(one), np.isnan(other)):
            return float("inf")
        known = ~np.isnan(one)
        scale = float(np.abs(one[known]).max(initial=0)) or 1.0
        largest = max(largest, float(np.abs(one - other)[known].max(initial=0)) / scale)
    return largest


def _not_equal(channels: Channels, removed: list[int], difference: float, samples: Any) -> ModelError:
    """Return the error for a smaller model that computes something else, with the groups that make it so."""
    blamed = []
    for group in channels.groups:
        own = np.intersect1d(group.roots, removed).tolist()
        if own and _difference(masked(channels, own), without_channels(channels, own), samples) > LARGEST_DIFFERENCE:
            blamed.append(group.name)
    rules = ", ".join(f"({name.split(' + ')[0]!r}, False)" for name in blamed[:3])
    advice = f"Keep those of {', '.join(blamed[:3])} with layers=({rules},)." if blamed else "Keep some with rules."
    return ModelError(
        f"Removing channels changed the outputs of '{channels.trace.graph.name}' by {difference:.1e} of the largest "
        f"output; expected at most {LARGEST_DIFFERENCE:g}. {advice}"
    )


def _outputs(model: Any, samples: Any) -> list[np.ndarray]:
    made = model.predict(samples, batch_size=len(flatten(samples)[0]), verbose=0)
    if isinstance(made, dict):
        return [np.asarray(made[name]) for name in sorted(made)]
    return [np.asarray(each) for each in (made if isinstance(made, list | tuple) else [made])]
