"""Arrays on disk, written once and read by rows, so that memory does not grow with the number of samples."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tfopt.base.limits import LARGEST_IN_MEMORY
from tfopt.data.arrays_by_name import count_samples, map_arrays
from tfopt.errors import DataError

ROWS = "rows"
"""The name of the file."""
CHUNK = 2**26
"""Bytes that are read at once where all rows are read in their order."""


class RowsOnDisk(ABC):
    """Rows of an array that are read from the disk when they are indexed.

    Attributes:
        row: shape of a row.
        dtype: of the values.
        places: integers (n,), the rows, of all that the disk has, that this array has, in order.
        digest: SHA-256 (hex) of all rows, as in C order in memory.
    """

    row: tuple[int, ...]
    dtype: np.dtype[Any]
    places: np.ndarray
    digest: str

    @abstractmethod
    def __getitem__(self, key: Any) -> np.ndarray:
        """Return the rows at `key` (an integer, integers, booleans, a slice) in memory."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array in memory."""
        return (len(self), *self.row)

    @property
    def ndim(self) -> int:
        """As of an array in memory."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows."""
        for part in self.chunks():
            yield from part

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the rows in arrays of at most `CHUNK` bytes."""
        step = max(1, CHUNK // max(self.nbytes // max(len(self), 1), 1))
        for start in range(0, len(self), step):
            yield self[start : start + step]

    def take(self, indices: Any) -> Self:
        """Return the rows at `indices` without reading them."""
        return replace(self, places=self.places[indices])  # type: ignore[type-var]

    def fingerprint(self) -> bytes:
        """Return a digest of the rows."""
        return hashlib.sha256(self.digest.encode() + np.ascontiguousarray(self.places, "<i8").tobytes()).digest()


@dataclass(frozen=True, eq=False)
class StoredArray(RowsOnDisk):
    """Rows of an array in a file, which holds the values alone.

    Args:
        path: the file.
        row: shape of a row.
        dtype: of the values.
        places: integers (n,), the rows of the file that this array has, in order.
        digest: SHA-256 (hex) of the whole file.
        owner: keeps the file as long as an array needs it.
    """

    path: Path
    row: tuple[int, ...]
    dtype: np.dtype[Any]
    places: np.ndarray
    digest: str
    owner: Any = None

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return the rows at `key` (an integer, integers, booleans, a slice) in memory."""
        # Map the file for each read: the pages of a mapping that stays open count as memory of the process.
        file = np.memmap(self.path, self.dtype, "r")
        return np.array(file.reshape(-1, *self.row)[self.places[key]])


def chunks_of(array: Any) -> Iterable[np.ndarray]:
    """Return arrays that together have the rows of `array`: itself, or, of one on disk, its chunks."""
    return array.chunks() if isinstance(array, RowsOnDisk) else [array]


def rows_at(array: Any, indices: Any) -> Any:
    """Return the rows of `array` at `indices` (integers, a slice); those on disk unread."""
    return array.take(indices) if isinstance(array, RowsOnDisk) else array[indices]


def take(arrays: Any, indices: np.ndarray) -> Any:
    """Return the rows at sorted `indices`, those in files unread; the arrays themselves, not copies, if that is all."""
    if len(indices) == count_samples(arrays):
        return arrays
    return map_arrays(lambda array: rows_at(array, indices), arrays)


class Collector:
    """Collects rows in memory, and in a file once they are more than `most` bytes.

    Args:
        what: the rows in messages.
        most: bytes.
        rows: how many rows there will be, if that is known: they then take their memory once.
        folder: keeps the file, called "rows"; None: a temporary folder.
    """

    def __init__(
        self, what: str, most: int | None = None, *, rows: int | None = None, folder: Path | None = None
    ) -> None:
        self._what, self._most = what, LARGEST_IN_MEMORY if most is None else most
        self._parts: list[np.ndarray] = []
        self._bytes, self._rows, self._expected = 0, 0, rows
        self._kept, self._folder = folder, None if folder is None else str(folder)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._digest = hashlib.sha256()

    @property
    def row(self) -> tuple[int, ...] | None:
        """Shape of a row; None before the first."""
        return self._parts[0].shape[1:] if self._parts else None

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, ...). Raise `DataError` if they differ in shape or type, or the disk is full."""
        if self._parts and (rows.shape[1:] != self._parts[0].shape[1:] or rows.dtype != self._parts[0].dtype):
            raise DataError(
                f"Expected {self._what} of one shape, got {self._parts[0].dtype} {self._parts[0].shape[1:]} and, from "
                f"sample {self._rows:,} on, {rows.dtype} {rows.shape[1:]}; make them alike."
            )
        start, self._rows, self._bytes = self._rows, self._rows + len(rows), self._bytes + rows.nbytes
        if self._expected and not self._parts:
            self._begin(rows)
        if self._folder is None and self._bytes <= self._most:
            if self._expected:
                self._parts[0][start : self._rows] = rows
            else:
                self._parts.append(rows)
            return
        if self._folder is None:
            self._move_to_file()
        self._parts = self._parts or [rows[:0]]
        self._write(rows)

    def _begin(self, rows: np.ndarray) -> None:
        """Take memory for all rows, or a file if they are too many."""
        assert self._expected is not None
        if self._expected * rows[0].nbytes > self._most:
            self._expected = None
            self._move_to_file()
        elif self._folder is None:
            self._parts = [np.empty((self._expected, *rows.shape[1:]), rows.dtype)]

    def _move_to_file(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tfopt_", ignore_cleanup_errors=True)
        self._folder = self._temporary.name
        for part in self._parts:
            self._write(part)
        self._parts = [self._parts[0][:0]] if self._parts else []

    def _write(self, rows: np.ndarray) -> None:
        values = np.ascontiguousarray(rows)
        self._digest.update(values.data.cast("B"))
        try:
            with self._path.open("ab") as file:
                values.tofile(file)
        except OSError as error:
            assert self._folder is not None
            free = shutil.disk_usage(self._folder).free
            where = "Set TMPDIR to a folder on a larger disk" if self._kept is None else "Choose a folder elsewhere"
            raise DataError(
                f"Cannot write {self._what}, {self._bytes / 2**30:.1f} GiB so far, with {free / 2**30:.1f} GiB left in "
                f"{self._folder}: {error}. {where}, or use fewer samples."
            ) from error

    @property
    def _path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder) / ROWS

    def result(self) -> Any:
        """Return all rows: an array, or a `StoredArray`."""
        if self._folder is None:
            return np.concatenate(self._parts) if len(self._parts) > 1 else self._parts[0][: self._rows]
        like, digest = self._parts[0], self._digest.hexdigest()
        return StoredArray(self._path, like.shape[1:], like.dtype, np.arange(self._rows), digest, self._temporary)
