"""Pair the operators of a file with those of the float file of the same model, by their places in the graph.

Equal kinds and shapes are not enough: a file may list parallel branches in another order, or leave out one of several
equal operators, and a wrong pair looks like a bad layer. Operators of one kind and shape are paired

1. if they read the same values and lead to the outputs of the model in the same way, or the other way around;
2. by the names of their layers, or by their kernels, which the precision of a file hardly changes;
3. by one of the two sides, or by order, where nothing contradicts.

Names, settings, the operators that read them, kernels and order, in this sequence, distinguish parallel operators that
read the same values. All pairs have the same order in both graphs. What remains has no counterpart: no pair is better
than a wrong one.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfopt.tflite.prove.steps import COMMUTATIVE, Plan, Source, Step
from tfopt.tflite.read import LiteModel

# Cosine between two kernels above which they are the same one in other precisions.
ALIKE = 0.9
Pairs = list[tuple[Step, Step]]


def paired(reference: LiteModel, lite: LiteModel, layers: Sequence[str]) -> tuple[Pairs, list[Step]]:
    """Return the pairs of steps of `reference` and `lite`, in the order of `lite`, and its steps without one."""
    ours, theirs = Plan(reference, layers), Plan(lite, layers, reference.inputs, reference.outputs)
    pairing = _Pairing(ours, theirs)
    pairing.run()
    found = [(ours.steps[pairing.found[step.number]], step) for step in theirs.steps if step.number in pairing.found]
    return found, [step for step in theirs.steps if step.number not in pairing.found]


class _Pairing:
    """The search for pairs; `found` maps steps of `theirs` to steps of `ours`, by number."""

    def __init__(self, ours: Plan, theirs: Plan) -> None:
        self.ours, self.theirs = ours, theirs
        self.found: dict[int, int] = {}
        self.taken: set[int] = set()
        self._cosines: dict[tuple[int, int], float] = {}

    def run(self) -> None:
        """Pair until nothing more is found: what is certain first."""
        ways = (self._forward, self._backward, self._by_names, self._by_kernels, self._one_sided, self._by_order)
        at = 0
        while at < len(ways):
            at = 0 if ways[at]() else at + 1

    def _pair(self, one: Step, other: Step) -> bool:
        self.found[other.number] = one.number
        self.taken.add(one.number)
        return True

    def _left(self) -> tuple[list[Step], list[Step]]:
        return (
            [step for step in self.ours.steps if step.number not in self.taken],
            [step for step in self.theirs.steps if step.number not in self.found],
        )

    # Structure

    def _forward(self) -> bool:
        """Pair steps that read the same values and have the same way to the outputs, or the same name or kernel."""
        before = len(self.found)
        for ours, theirs in self._readers_of_the_same():
            self._assign(ours, theirs)
        return len(self.found) > before

    def _readers_of_the_same(self) -> list[tuple[list[Step], list[Step]]]:
        """Return groups of open steps of one kind and shape that read the same values."""
        ours, theirs = self._left()
        groups: dict[Any, tuple[list[Step], list[Step]]] = {}
        for one in ours:
            groups.setdefault((one.key, _arranged(one.kind, one.sources)), ([], []))[0].append(one)
        for other in theirs:
            sources = [known for source in other.sources if (known := self._source(source))]
            place = (other.key, _arranged(other.kind, sources))
            if len(sources) == len(other.sources) and place in groups:
                groups[place][1].append(other)
        return list(groups.values())

    def _source(self, source: Source) -> Source | None:
        kind, number, result = source
        if kind == "input":
            return source
        return ("step", self.found[number], result) if number in self.found else None

    def _assign(self, ours: Sequence[Step], theirs: Sequence[Step]) -> None:
        """Pair the most alike of two groups, as far as they are certain."""
        for one, other in self._ranked(ours, theirs):
            is_open = one.number not in self.taken and other.number not in self.found
            purposes = self.ours.purposes[one.number], self.theirs.purposes[other.number]
            if is_open and (purposes[0] == purposes[1] or self._is_known(one, other)):
                self._pair(one, other)

    def _ranked(self, ours: Sequence[Step], theirs: Sequence[Step]) -> list[tuple[Step, Step]]:
        choices = [(i, j) for i in range(len(ours)) for j in range(len(theirs))]
        if len(choices) > 1:
            choices.sort(
                key=lambda at: (*self._likeness(ours[at[0]], theirs[at[1]]), -abs(at[0] - at[1])), reverse=True
            )
        return [(ours[i], theirs[j]) for i, j in choices]

    def _likeness(self, one: Step, other: Step) -> tuple[float, ...]:
        """Return how alike two steps are that read the same values; greater is more alike."""
        settings = self.ours.lite.settings(one.op) == self.theirs.lite.settings(other.op)
        purpose = self.ours.purposes[one.number] == self.theirs.purposes[other.number]
        return self._same_name(one, other), settings, purpose, round(self._cosine(one, other), 2)

    def _backward(self) -> bool:
        """Pair what paired steps read at one place, if it has the same way from the inputs, or name or kernel."""
        before = len(self.found)
        for one, other in self._read_by_the_same():
            origins = self.ours.origins[one.number], self.theirs.origins[other.number]
            if other.number not in self.found and (origins[0] == origins[1] or self._is_known(one, other)):
                self._pair(one, other)
        return len(self.found) > before

    def _read_by_the_same(self) -> Iterator[tuple[Step, Step]]:
        """Yield open steps of one kind and shape that are read at one place: by a pair, or as output of the model."""
        yield from self._sources_of(self.ours.ends, self.theirs.ends, "")
        for other in reversed(self.theirs.steps):
            if other.number in self.found:
                one = self.ours.steps[self.found[other.number]]
                yield from self._sources_of(one.sources, other.sources, one.kind)

    def _sources_of(
        self, ours: Sequence[Source | None], theirs: Sequence[Source | None], kind: str
    ) -> Iterator[tuple[Step, Step]]:
        if len(ours) != len(theirs):
            return
        both = list(zip(ours, theirs, strict=True))
        if kind in COMMUTATIVE:  # only what is left after the others are known
            known = {self._source(source) for source in theirs if source} - {None}
            left = [source for source in ours if source not in known]
            unknown = [source for source in theirs if source and self._source(source) is None]
            both = list(zip(left, unknown, strict=True)) if len(left) == len(unknown) == 1 else []
        for mine, yours in both:
            if mine and yours and mine[0] == yours[0] == "step" and mine[2] == yours[2]:
                one, other = self.ours.steps[mine[1]], self.theirs.steps[yours[1]]
                if one.key == other.key and one.number not in self.taken and other.number not in self.found:
                    yield one, other

    def _one_sided(self) -> bool:
        """Pair steps by their sources or by their readers alone, unless the other side contradicts."""
        forward: dict[Step, Step] = {}
        for ours, theirs in self._readers_of_the_same():
            forward.update((other, one) for one, other in reversed(self._ranked(ours, theirs)))
        backward = {other: one for one, other in self._read_by_the_same()}
        choices = {**backward, **forward}
        chosen = Counter(one.number for one in choices.values())
        before = len(self.found)
        for other, one in choices.items():  # both ends advance together, so that they meet where something is missing
            if backward.get(other, one) is one and chosen[one.number] == 1 and self._agrees(one, other):
                self._pair(one, other)
        return len(self.found) > before

    # Names and contents

    def _is_known(self, one: Step, other: Step) -> bool:
        """Return whether two steps have the same layer's name, or no other name and the same kernel."""
        named = self._same_name(one, other)
        return named > 0 or (named == 0 and self._cosine(one, other) > ALIKE)

    def _same_name(self, one: Step, other: Step) -> int:
        """Return 1 for the same layers, -1 for others, 0 where a file has no names."""
        names = self.ours.names[one.number], self.theirs.names[other.number]
        return 0 if not all(names) else 1 if names[0] == names[1] else -1

    def _cosine(self, one: Step, other: Step) -> float:
        a, b = self.ours.kernels.get(one.op.index), self.theirs.kernels.get(other.op.index)
        if a is None or b is None or a.shape != b.shape:
            return 0.0
        if (known := self._cosines.get((one.op.index, other.op.index))) is None:
            size = float(np.linalg.norm(a) * np.linalg.norm(b))
            known = self._cosines[one.op.index, other.op.index] = float(np.vdot(a, b)) / size if size else 0.0
        return known

    def _by_names(self) -> bool:
        return self._unique(lambda one, other: self._same_name(one, other) > 0)

    def _by_kernels(self) -> bool:
        return self._unique(lambda one, other: self._cosine(one, other) > ALIKE)

    def _unique(self, same: Callable[[Step, Step], bool]) -> bool:
        """Pair a step with the only one that is the `same`, where that is mutual and agrees with all other pairs."""
        ours, theirs = self._left()
        partners = {other: [one for one in ours if one.key == other.key and same(one, other)] for other in theirs}
        wanted = Counter(one.number for found in partners.values() for one in found)
        before = len(self.found)
        for other, found in partners.items():
            if len(found) == 1 and wanted[found[0].number] == 1 and self._agrees(found[0], other):
                self._pair(found[0], other)
        return len(self.found) > before

    # Order

    def _by_order(self) -> bool:
        """Pair one more step with one of the same kind and shape at the same place between the pairs."""
        for one, other in _aligned(*self._left()):
            if not self._is_contradicted(one, other) and self._agrees(one, other):
                return self._pair(one, other)
        return False

    def _is_contradicted(self, one: Step, other: Step) -> bool:
        """Return whether a paired step reads another step at the place of `other`, or is read by it."""
        rivals = [mine for mine, yours in self._read_by_the_same() if yours is other]
        rivals += [mine for ours, theirs in self._readers_of_the_same() if other in theirs for mine in ours]
        return any(mine is not one for mine in rivals)

    def _agrees(self, one: Step, other: Step) -> bool:
        """Return whether all pairs stay in the same order: what a step depends on is paired with what its pair does."""
        a, b = self.ours.before, self.theirs.before
        return all(
            _related(a, mine, one.number) == _related(b, yours, other.number) for yours, mine in self.found.items()
        )


def _related(before: Sequence[int], a: int, b: int) -> tuple[bool, bool]:
    return bool(before[b] >> a & 1), bool(before[a] >> b & 1)


def _arranged(kind: str, sources: Sequence[Source]) -> tuple[Source, ...]:
    return tuple(sorted(sources) if kind in COMMUTATIVE else sources)


def _aligned(ours: Sequence[Step], theirs: Sequence[Step]) -> Iterator[tuple[Step, Step]]:
    a, b = ([step.key for step in steps] for steps in (ours, theirs))
    for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        yield from zip(ours[block.a : block.a + block.size], theirs[block.b : block.b + block.size], strict=True)
