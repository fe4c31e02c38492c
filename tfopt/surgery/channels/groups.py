"""Groups of channels that can be removed one by one, each with everything that depends on it."""

import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Leaf, flatten
from tfopt.graph.walk import walk
from tfopt.surgery.channels.atoms import FIXED, Array
from tfopt.surgery.channels.rules import follow
from tfopt.surgery.channels.trace import Kept, Slot, Trace, tensors


@dataclass(frozen=True, eq=False)
class Part:
    """The slices of one axis of a weight that belong to a group: `places` (channels, k) along the axis of `slot`."""

    slot: Slot
    places: Array


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of which any can be removed, each with one slice, or the same number of slices, of every part.

    Attributes:
        name: the layers that make them, joined by " + ".
        roots: their names in the trace, (n,).
        parts: what belongs to them.
        kind: what they are for the layer that makes them: "out", "units", or "heads", "key_dim" and "value_dim" of an
            attention.
    """

    name: str
    kind: str
    roots: Array
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        """Return the number of channels."""
        return len(self.roots)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that make the channels."""
        return tuple(dict.fromkeys(part.slot.leaf.name for part in self.parts if part.slot.makes))


class Channels:
    """The groups of a flat tf_keras model, and what it costs without some of their channels.

    Args:
        trace: filled in.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.groups = _groups(trace)
        self._works = [(work, [trace.atoms.roots(each) for each in work.factors]) for work in trace.works]

    def kept(self, removed: Iterable[int]) -> Kept:
        """Return the function that says which channels stay."""
        gone = self._are_removed(removed)
        return lambda atoms: ~gone[self.trace.atoms.roots(atoms)]

    def _are_removed(self, removed: Iterable[int]) -> np.ndarray:
        """Return whether each root is one of `removed`, bool by number of the root."""
        gone = np.zeros(self.trace.atoms.count, bool)
        gone[np.fromiter(removed, np.int64)] = True
        return gone

    def macs(self, removed: Iterable[int] = ()) -> int:
        """Return the multiplications of one sample without the channels `removed`."""
        return sum(self.macs_by_layer(removed).values())

    def macs_by_layer(self, removed: Iterable[int] = ()) -> dict[str, int]:
        """Return the multiplications of one sample by layer name."""
        gone, found = self._are_removed(removed), defaultdict[str, int](int)
        for work, factors in self._works:
            counts = [len(roots) - int(gone[roots].sum()) for roots in factors]
            found[work.leaf.name] += work.times * int(np.prod(counts, dtype=np.int64))
        return dict(found)

    def parameters(self, removed: Iterable[int] = ()) -> int:
        """Return the number of weights without the channels `removed`."""
        kept, total = self.kept(removed), 0
        for leaf in self.trace.graph.leaves:
            for index, weight in enumerate(getattr(leaf.layer, "weights", ())):
                shape = list(weight.shape)
                for slot in self.slots_of(leaf.name).get(index, ()):
                    shape[slot.axis] = int(kept(slot.atoms).sum())
                total += int(np.prod(shape, dtype=np.int64))
        return total

    @property
    def has_attention(self) -> bool:
        """Whether the model has attention with kernels."""
        return any(facts_of(leaf.layer).channels == "attention" for leaf in self.trace.graph.leaves)

    def readers_of(self, leaf: Leaf) -> list[Leaf]:
        """Return the layers and operations that read the outputs of a layer, one for each call."""
        made = {ref for call in self.trace.graph.calls if call.leaf is leaf for ref in call.outputs}
        return [call.leaf for call in self.trace.graph.calls if not made.isdisjoint(tensors(call))]

    def slots_of(self, layer: str) -> dict[int, list[Slot]]:
        """Return the slots of a layer, by the number of the weight."""
        return self._by_layer.get(layer, {})

    @functools.cached_property
    def _by_layer(self) -> dict[str, dict[int, list[Slot]]]:
        found: dict[str, dict[int, list[Slot]]] = defaultdict(lambda: defaultdict(list))
        for slot in self.trace.slots.values():
            found[slot.leaf.name][slot.index].append(slot)
        return found

    def barriers(self) -> dict[str, int]:
        """Return why channels stay, with the number of channels that do."""
        found: dict[str, int] = {}
        for barrier in self.trace.barriers:
            found[barrier.why] = found.get(barrier.why, 0) + len(barrier.roots)
        return found


def channels_of(flat_model: Any, *, through_norms: bool = False) -> Channels:
    """Return the channels of a flat tf_keras model that can be removed.

    Args:
        flat_model: built.
        through_norms: also those over which a layer normalizes; it then normalizes over those that stay.
    """
    graph = walk(flat_model, keep_names=True)
    trace = follow(Trace(graph, through_norms=through_norms))
    for ref in flatten(graph.outputs_struct):
        trace.fix(trace.of(ref), "they are outputs of the model")
    return Channels(trace)


def _groups(trace: Trace) -> list[Group]:
    """Return channels with the same slots as groups."""
    slots = list(trace.slots.values())
    members: dict[int, list[tuple[int, Array]]] = defaultdict(list)
    for number, slot in enumerate(slots):
        roots = trace.atoms.roots(slot.atoms)
        order = np.argsort(roots, kind="stable")
        found, starts = np.unique(roots[order], return_index=True)
        for root, places in zip(found, np.split(order, starts[1:]), strict=True):
            if root != FIXED:
                members[int(root)].append((number, places))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for root, parts in sorted(members.items()):
        if any(slots[number].makes for number, _ in parts):
            alike[tuple((number, len(places)) for number, places in parts)].append(root)
    return [_group(trace, slots, members, roots) for roots in alike.values()]


def _group(trace: Trace, slots: list[Slot], members: dict[int, list[tuple[int, Array]]], roots: list[int]) -> Group:
    parts = []
    for position, (number, _) in enumerate(members[roots[0]]):
        parts.append(Part(slots[number], np.stack([members[root][position][1] for root in roots])))
    makers = dict.fromkeys(part.slot.leaf.name for part in parts if part.slot.makes)
    return Group(" + ".join(makers), trace.kind_of(roots[0]), np.array(roots, np.int64), tuple(parts))
