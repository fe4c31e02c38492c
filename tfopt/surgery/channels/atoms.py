"""Union-find over channels: those that can only be removed together have the same root."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]
FIXED = 0
"""The root of all channels that must stay."""


class Atoms:
    """Channels as whole numbers from 1 on, united as operations tie them together."""

    def __init__(self) -> None:
        self._parents = np.zeros(1, np.int64)

    @property
    def count(self) -> int:
        """The number of channels, and 1."""
        return len(self._parents)

    def new(self, count: int) -> Array:
        """Return `count` new channels."""
        first = len(self._parents)
        self._parents = np.concatenate([self._parents, np.arange(first, first + count)])
        return np.arange(first, first + count)

    def roots(self, atoms: Any) -> Array:
        """Return the root of each of `atoms`, in their shape."""
        found = np.asarray(atoms, np.int64)
        while not np.array_equal(found, above := self._parents[found]):
            found = above
        return found

    def members(self, roots: Array) -> Array:
        """Return all channels with one of these roots."""
        return np.flatnonzero(np.isin(self.roots(np.arange(self.count)), roots))

    def unite(self, one: Any, other: Any) -> None:
        """Tie `one` and `other` together, element by element; they broadcast."""
        for a, b in zip(*map(np.ravel, np.broadcast_arrays(one, other)), strict=True):
            low, high = sorted((self._root(int(a)), self._root(int(b))))
            self._parents[high] = low  # so that FIXED stays a root

    def _root(self, atom: int) -> int:
        while (above := int(self._parents[atom])) != atom:
            self._parents[atom] = self._parents[above]
            atom = above
        return atom
