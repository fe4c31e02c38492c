"""How important each channel of a group is, from its weights or from gradients."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.surgery.channels.groups import Channels, Group, Part

Criterion = Literal["l1", "l2", "bn_scale", "geometric_median", "lamp", "taylor", "fisher", "random"]
_COMPARABLE = ("bn_scale", "lamp")
OF_GRADIENTS = ("taylor", "fisher")
"""Criteria that need samples."""
Values = Mapping[tuple[str, int], np.ndarray]
"""Weights or gradients by layer name and number of the weight."""


def weights_of(channels: Channels) -> dict[tuple[str, int], np.ndarray]:
    """Return the current weights of all layers with slots."""
    leaves = {leaf.name: leaf for leaf in channels.trace.graph.leaves}
    keys = {(slot.leaf.name, slot.index) for slot in channels.trace.slots.values()}
    return {key: np.asarray(leaves[key[0]].layer.weights[key[1]]) for key in sorted(keys)}


def scores(channels: Channels, criterion: Criterion, values: Values, seed: int = 0) -> list[np.ndarray]:
    """Return the scores of the channels of each group.

    Args:
        channels: of the model.
        criterion: "l1" and "l2", the norm of everything in kernels that belongs to a channel (DepGraph, Fang et al.
            2023, arXiv:2301.12900, section 3.3), each kernel relative to its mean, so that a large one does not decide
            alone; "bn_scale", the scales of BatchNormalizations (Liu et al. 2017, arXiv:1708.06519), "l2" in groups
            without any; "geometric_median", the distance to the other channels (He et al. 2019, arXiv:1811.00250);
            "lamp", the squared norm relative to that of all channels not less important (Lee et al. 2021,
            arXiv:2010.07611, equation 4); "random". Scores of "bn_scale" and "lamp" compare across groups as they are,
            those of norms and distances are relative to their mean in the group.
        values: from `weights_of`.
        seed: of "random".
    """
    rng = np.random.default_rng(seed)
    found = []
    for group in channels.groups:
        if criterion == "random":
            found.append(rng.uniform(0.5, 1.5, len(group)))
        else:
            score = _BY_WEIGHTS[criterion](group, values)
            found.append(score if criterion in _COMPARABLE else relative(score))
    return found


def relative(values: np.ndarray) -> np.ndarray:
    """Return `values` (n,) divided by their mean."""
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)


def slices(part: Part, values: Values) -> np.ndarray:
    """Return what belongs to each channel in one weight, (channels, numbers), float64."""
    array = np.moveaxis(values[part.slot.leaf.name, part.slot.index], part.slot.axis, 0).astype(np.float64)
    return array[part.places].reshape(len(part.places), -1)


def kernel_parts(group: Group, values: Values) -> list[Part]:
    """Return the parts of a group in kernels."""
    return [
        part
        for part in group.parts
        if values[part.slot.leaf.name, part.slot.index].ndim > 1
        and facts_of(part.slot.leaf.layer).channels != "weighted"  # as the slopes of a PReLU
    ]


def _norms(power: int) -> Callable[[Group, Values], np.ndarray]:
    def norms(group: Group, values: Values) -> np.ndarray:
        parts = [relative((np.abs(slices(p, values)) ** power).sum(axis=1)) for p in kernel_parts(group, values)]
        return np.asarray(np.mean(parts, axis=0) ** (1 / power))

    return norms


def _scales(group: Group, values: Values) -> np.ndarray:
    found = []
    for part in group.parts:
        gamma = getattr(part.slot.leaf.layer, "gamma", None)
        if gamma is not None and part.slot.leaf.layer.weights[part.slot.index] is gamma:
            found.append(np.abs(slices(part, values)).sum(axis=1))
    return np.asarray(np.mean(found, axis=0)) if found else _norms(2)(group, values)


def _distances(group: Group, values: Values) -> np.ndarray:
    made = [slices(part, values) for part in kernel_parts(group, values) if part.slot.makes]
    filters = np.concatenate(made, axis=1)
    squares = (filters**2).sum(axis=1)
    between = squares[:, None] + squares[None] - 2 * filters @ filters.T
    return np.asarray(np.sqrt(np.maximum(between, 0)).sum(axis=1))


def _lamp(group: Group, values: Values) -> np.ndarray:
    squares = _norms(2)(group, values) ** 2
    order = np.argsort(squares)
    rest = np.cumsum(squares[order][::-1])[::-1]
    found = np.empty_like(squares)
    found[order] = squares[order] / np.maximum(rest, np.finfo(float).tiny)
    return found


_BY_WEIGHTS: Mapping[str, Callable[[Group, Values], np.ndarray]] = {
    "l1": _norms(1),
    "l2": _norms(2),
    "bn_scale": _scales,
    "geometric_median": _distances,
    "lamp": _lamp,
}


def gates(channels: Channels, group: Group) -> list[Part]:
    """Return the parts of a group whose zeros make its channels zero, each once.

    Those are the weights that make the channels; scale and offset of a BatchNormalization instead if it normalizes what
    they make, since a constant channel does not matter to it; and those of the values for heads of an attention, which
    count nothing once their values are zero.
    """
    scales = [part for part in group.parts if facts_of(part.slot.leaf.layer).family == "batch_norm"]
    found: list[Part] = []
    for part in group.parts:
        layer = part.slot.leaf.layer
        if not part.slot.makes or (group.kind == "heads" and not _of_values(part)):
            continue
        readers = channels.readers_of(part.slot.leaf)
        norms = {leaf.name for leaf in readers} & {scale.slot.leaf.name for scale in scales}
        linear = getattr(layer, "activation", None) is None or layer.activation.__name__ == "linear"
        if linear and readers and len(norms) == len(readers):
            found += [s for s in scales if s.slot.leaf.name in norms and _trained(s) and s not in found]
        else:
            found.append(part)
    return found


def _of_values(part: Part) -> bool:
    inner = getattr(part.slot.leaf.layer, "_value_dense", None)
    return inner is None or any(part.slot.leaf.layer.weights[part.slot.index] is weight for weight in inner.weights)


def _trained(part: Part) -> bool:
    """Return whether a part of a BatchNormalization is its scale or offset, not a statistic."""
    layer = part.slot.leaf.layer
    weight = layer.weights[part.slot.index]
    return any(weight is each for each in (layer.gamma, layer.beta) if each is not None)


def scores_of_gradients(channels: Channels, values: Values, gradients: Iterable[Values]) -> list[np.ndarray]:
    """Return scores from gradients of the loss: those of batches for "taylor", those of samples for "fisher".

    "taylor" is the squared change of the loss without the channel, to first order (Molchanov et al. 2019,
    arXiv:1906.10771, equation 8); "fisher" is the mean over samples of the same (Theis et al. 2018, arXiv:1801.05787,
    equation 13). The change is that of the weights whose zeros make the channel zero, see `gates`.
    """
    gates_by_group = [gates(channels, group) for group in channels.groups]
    totals = [np.zeros(len(group)) for group in channels.groups]
    for gradient in gradients:
        for total, parts in zip(totals, gates_by_group, strict=True):
            changes = [(slices(part, values) * slices(part, gradient)).sum(axis=1) for part in parts]
            total += np.sum(changes, axis=0) ** 2
    return [relative(total) for total in totals]
