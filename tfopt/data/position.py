"""Where in a training the next iteration over its batches begins."""

import itertools
from collections.abc import Callable


class Position:
    """The epoch and the step at which iterations over training batches begin.

    Without `tell`, iterations are counted: the first one is epoch 0, the second one epoch 1, each from its first step.
    A training that resumes tells where it is, so that its batches are those of a training that was never interrupted.
    """

    def __init__(self) -> None:
        self._told: tuple[int, int] | None = None

    def tell(self, epoch: int, step: int = 0) -> None:
        """Let the iterations that begin from now on start at `step` of `epoch`, both counted from 0."""
        self._told = (epoch, step)

    def begins(self) -> Callable[[], tuple[int, int]]:
        """Return a function that gives epoch and step of each iteration over one data set, called as it begins."""
        counted = itertools.count()
        return lambda: self._told or (next(counted), 0)
