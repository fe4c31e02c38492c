"""Where in a training the next iteration over its batches begins, and which part of each batch is shown."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The parts of each batch that this process takes; all processes together take each sample once.

    Attributes:
        first: its first part.
        own: how many parts it takes, one after the other.
        of: how many parts a batch has, of equal sizes but for one sample.
    """

    first: int = 0
    own: int = 1
    of: int = 1

    def rows(self, samples: int, batch_size: int, number: int) -> slice:
        """Return the places in the order of an epoch of the part with this number, counted over the epoch."""
        step, part = divmod(number, self.own)
        start, end = (self._border(samples, batch_size, each) for each in (step, step + 1))
        begin, stop = (start + (end - start) * (self.first + part + more) // self.of for more in (0, 1))
        return slice(begin, stop)

    def _border(self, samples: int, batch_size: int, step: int) -> int:
        """Return where a batch begins: if the last one has less than a sample for each part, the last two are equal."""
        start = min(step * batch_size, samples)
        if step and start < samples <= start + min(batch_size, self.of - 1):
            return (start - batch_size + samples) // 2
        return start


class Position:
    """The epoch and the step at which iterations over training batches begin.

    Without `tell`, iterations are counted: the first one is epoch 0, the second one epoch 1, each from its first step.
    A training that resumes tells where it is, so that its batches are those of a training that was never interrupted.

    Args:
        share: of each batch. With a part only, iterations follow the first one, which alone begins where it is told.
    """

    def __init__(self, share: Share | None = None) -> None:
        self.share = share or Share()
        self._told: tuple[int, int] | None = None

    def tell(self, epoch: int, step: int = 0) -> None:
        """Let the iterations that begin from now on start at `step` of `epoch`, both counted from 0."""
        self._told = (epoch, step)

    def begins(self) -> Callable[[], tuple[int, int]]:
        """Return a function that gives epoch and part of each iteration over one data set, called as it begins."""
        counted = itertools.count()
        if self.share.of == 1:
            return lambda: self._told or (next(counted), 0)
        start = (0, 0)

        def begin() -> tuple[int, int]:
            nonlocal start
            number = next(counted)
            start = start if number else self._told or start
            return start[0] + number, 0 if number else start[1] * self.share.own

        return begin
