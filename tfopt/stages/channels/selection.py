"""Choose the channels to remove: the least important ones, until the model costs little enough."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfopt.surgery.channels.groups import Channels, Group

Distribution = Literal["isomorphic", "global", "uniform"]
Cost = Callable[[Iterable[int]], float]


@dataclass(frozen=True)
class Limits:
    """What must stay of each group.

    Attributes:
        least: number of channels by group, at least 1.
        fixed: the number that stays, by group, where it is stated; None where the scores decide.
        round_to: by group; the number of channels that stay is a multiple of it, or all of them.
    """

    least: tuple[int, ...]
    fixed: tuple[int | None, ...]
    round_to: tuple[int, ...]

    def rounded(self, group: int, count: int, stay: int) -> int:
        """Return how many of the `count` channels of a group stay, if it should be `stay`."""
        if (fixed := self.fixed[group]) is not None:
            return fixed
        allowed: list[int] = [*range(self.round_to[group], count, self.round_to[group]), count]
        allowed = [width for width in allowed if width >= min(self.least[group], count)]
        return min(allowed, key=lambda width: (abs(width - stay), -width))

    def next_above(self, group: int, count: int, stay: int) -> int:
        """Return the next larger number of the `count` channels of a group that may stay."""
        block = self.round_to[group]
        return min((stay // block + 1) * block, count)


def select(
    channels: Channels,
    scores: Sequence[np.ndarray],
    cost: Cost,
    most: float,
    limits: Limits,
    *,
    distribution: Distribution = "isomorphic",
    give_back: bool = True,
) -> list[int]:
    """Return the channels to remove, as roots, so that the model costs at most `most`; all that may go if it cannot.

    Args:
        channels: of the model.
        scores: of the channels of each group, relative to those of the group.
        cost: of the model without some channels.
        most: largest cost.
        limits: what must stay.
        distribution: "global" compares the scores of all groups; "isomorphic" removes the same share of the channels of
            all groups of the same structure, and compares scores among these (Fang et al. 2024, arXiv:2407.04616,
            section 3.2); "uniform" removes the same share of every group.
        give_back: let channels stay after all where rounding has removed more than needed, which asks for many costs.
    """
    orders = _orders(channels, scores, distribution)

    def chosen(share: float) -> list[int]:
        counts = [0] * len(channels.groups)
        for order in orders:
            for loser in order[: round(share * len(order))]:
                counts[loser] += 1
        losses = [
            len(group) - limits.rounded(number, len(group), len(group) - counts[number])
            for number, group in enumerate(channels.groups)
        ]
        return least_important(channels, scores, losses)

    low, high = 0.0, 1.0
    if cost(chosen(low)) <= most:
        return chosen(low)
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(chosen(middle)) <= most else (middle, high)
    found = chosen(high)
    return _with_most_given_back(channels, scores, cost, most, limits, found) if give_back else found


def _with_most_given_back(
    channels: Channels,
    scores: Sequence[np.ndarray],
    cost: Cost,
    most: float,
    limits: Limits,
    chosen: list[int],
) -> list[int]:
    """Return `chosen` minus the most important blocks that still fit: rounding removes too many."""
    lost = set(chosen)
    while True:
        blocks: list[tuple[float, list[int]]] = []
        for number, (group, score) in enumerate(zip(channels.groups, scores, strict=True)):
            free = [place for place, root in enumerate(group.roots) if int(root) in lost]
            stay = len(group) - len(free)
            more = limits.next_above(number, len(group), stay) - stay
            block = [free[place] for place in np.argsort(-score[free], kind="stable")[:more]]
            if block and limits.fixed[number] is None:
                roots = [int(group.roots[place]) for place in block]
                if cost(lost - set(roots)) <= most:
                    blocks.append((float(score[block].mean()), roots))
        if not blocks:
            return sorted(lost)
        lost -= set(max(blocks)[1])


def _orders(channels: Channels, scores: Sequence[np.ndarray], distribution: Distribution) -> list[list[int]]:
    """Return lists of group numbers, one entry for each channel, in the order in which they lose channels."""
    classes: dict[object, list[tuple[float, int]]] = defaultdict(list)
    for number, (group, score) in enumerate(zip(channels.groups, scores, strict=True)):
        key = {"global": 0, "uniform": number, "isomorphic": structure_of(group)}[distribution]
        classes[key] += [(float(each), number) for each in score]
    return [[number for _, number in sorted(each)] for each in classes.values()]


def structure_of(group: Group) -> tuple[object, ...]:
    """Return what is equal for groups of the same structure: the kinds of their layers, and the places in these."""
    return tuple(sorted((type(p.slot.leaf.layer).__name__, p.slot.axis, p.slot.makes) for p in group.parts))


def least_important(
    channels: Channels, scores: Sequence[np.ndarray], counts: Sequence[int], removed: Iterable[int] = ()
) -> list[int]:
    """Return as many channels of each group as `counts` says, the least important ones; first those in `removed`.

    Args:
        channels: of the model.
        scores: of the channels of each group.
        counts: by group.
        removed: channels that are gone already.
    """
    gone, found = list(removed), list[int]()
    for group, score, count in zip(channels.groups, scores, counts, strict=True):
        order = np.argsort(np.where(np.isin(group.roots, gone), -np.inf, score), kind="stable")
        found += group.roots[order[:count]].tolist()
    return found
