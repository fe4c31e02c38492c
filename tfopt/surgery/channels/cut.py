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
"""Of the outputs of both models, relative to the largest output."""


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
        _check_equal(masked(channels, gone), result, samples)
    return result


def masked(channels: Channels, removed: Iterable[int]) -> Any:
    """Return a copy of the flat model of `channels` in which the weights of the channels `removed` are zero."""
    graph = channels.trace.graph
    result = build(graph, plans_of(graph))
    twins = {layer.name: layer for layer in result.layers}
    for name, arrays in masked_weights(channels, removed).items():
        twins[name].set_weights(arrays)
    return result


def masked_weights(channels: Channels, removed: Iterable[int], *, ones: bool = False) -> dict[str, list[np.ndarray]]:
    """Return the weights of all layers, by name, with zeros for the channels `removed`; or, with `ones`, the masks."""
    kept, found = channels.kept(removed), {}
    for leaf in channels.trace.graph.leaves:
        if not is_layer(leaf.layer) or not leaf.layer.weights:
            continue
        arrays = [np.ones(weight.shape, np.float32) if ones else np.array(weight) for weight in leaf.layer.weights]
        for index, slots in channels.slots_of(leaf.name).items():
            for slot in slots:
                shape = [1] * arrays[index].ndim
                shape[slot.axis] = -1
                arrays[index] = arrays[index] * kept(slot.atoms).reshape(shape).astype(arrays[index].dtype)
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


def _check_equal(before: Any, after: Any, samples: Any) -> None:
    ours, theirs = (_outputs(model, samples) for model in (before, after))
    for one, other in zip(ours, theirs, strict=True):
        scale = float(np.abs(one).max()) or 1.0
        if not np.allclose(one, other, rtol=0, atol=LARGEST_DIFFERENCE * scale, equal_nan=True):
            raise ModelError(
                f"Without these channels, '{after.name}' computes something else than with zeros in their place: "
                f"{float(np.nanmax(np.abs(one - other))) / scale:.1e} of the largest output. A layer of it is not what "
                "its class says; exclude it with a rule."
            )


def _outputs(model: Any, samples: Any) -> list[np.ndarray]:
    made = model.predict(samples, batch_size=len(flatten(samples)[0]), verbose=0)
    if isinstance(made, dict):
        return [np.asarray(made[name]) for name in sorted(made)]
    return [np.asarray(each) for each in (made if isinstance(made, list | tuple) else [made])]
