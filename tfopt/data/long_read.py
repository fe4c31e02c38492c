"""Report progress while a long stream is read, and stop where it may have no end."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from tfopt.base.limits import GIB, LARGEST_IN_MEMORY, MOST_SAMPLES
from tfopt.base.terminal import plain
from tfopt.errors import DataError

_LONG = 10.0  # seconds before the first line; each line waits twice as long as the one before


class LongRead:
    """Counts what a stream has given.

    Args:
        name: of the part.
        ends: whether it is known that the stream ends. Else it may give `limits.MOST_SAMPLES` samples, and bytes for
            half of what is free on the disk for temporary files, or `limits.LARGEST_IN_MEMORY`.
    """

    def __init__(self, name: str, *, ends: bool) -> None:
        self._name, self._ends = name, ends
        self.samples = self._bytes = 0
        self._began, self._pause = time.monotonic(), _LONG
        half = 0 if ends else shutil.disk_usage(tempfile.gettempdir()).free // 2
        self._room = max(LARGEST_IN_MEMORY, half)
        self._why = ", half of the free disk space" if half == self._room else ""

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Count the arrays of a batch, and print how many samples there are if it takes long.

        Raises:
            DataError: there are too many for a stream that may have no end.
        """
        self.samples += len(arrays[0])
        self._bytes += sum(array.nbytes for array in arrays)
        if not self._ends and (self.samples > MOST_SAMPLES or self._bytes > self._room):
            raise DataError(
                f"Expected {self._name} with an end, got {self._read} and more: a stream that does not say how long it "
                f"is may give {MOST_SAMPLES:,} samples or {self._room / GIB:.3g} GiB{self._why}; say "
                "how many batches to take: load_data(..., steps=N)."
            )
        if time.monotonic() - self._began >= self._pause:
            self._pause *= 2
            advice = "" if self._ends else "; load_data(..., steps=N) takes N batches"
            print(plain(f"Reading {self._name}: {self._read} so far{advice}"), file=sys.stderr)

    @property
    def _read(self) -> str:
        return f"{self.samples:,} samples ({self._bytes / GIB:.3g} GiB)"
