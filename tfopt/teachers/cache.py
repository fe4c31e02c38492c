"""A cache of a teacher's answers to all training inputs, computed once per view."""

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from tfopt.base.differences import differences
from tfopt.base.files import atomic_path, remove_leftovers
from tfopt.base.locks import locked
from tfopt.base.progress import progress_bar
from tfopt.base.reading import parse_json, reading
from tfopt.errors import DataError, OutputError
from tfopt.teachers.base import OUTPUT, Answering
from tfopt.teachers.precomputed import Precomputed

_META = "meta.json"
LOCK = ".lock"
"""The name of the file that a process locks while it writes to a folder of answers."""
_FORMAT = 1
_ROOM_LEFT = 2**28  # bytes to leave free on the disk


class StaleAnswersError(DataError):
    """The folder holds answers for a different key."""


class Answers:
    """The answers of `teacher` to `count` training samples, one view at a time.

    A view is the training inputs under one seeded augmentation; without augmentation there is only view 0. Responses
    are stored as float32. Features are stored as float16, which halves the space and changes them by at most one part
    in 2,000; if a value overflows float16, that view's features are float32, with a note.

    Args:
        teacher: a resolved `Teacher`, `Ensemble` or `Precomputed`.
        about: everything the inputs depend on (data fingerprint, preprocessing, augmentation, seed), as plain values;
            part of the key.
        count: number of samples in each view.
        folder: stores the views as `.npy` files, opened memory-mapped, so they may exceed memory. None keeps them in
            memory. Another process that computes views there is waited for.
        label: the label of the progress bar; the teacher's name if None.
        progress, quiet: see `Teacher.predict`.

    Raises:
        StaleAnswersError: the folder holds answers for another key.
        DataError: the folder holds something else, or the teacher is code, whose changes cannot be detected.
    """

    def __init__(
        self,
        teacher: Answering,
        about: dict[str, Any],
        count: int,
        *,
        folder: str | Path | None = None,
        label: str | None = None,
        progress: Any = None,
        quiet: bool = False,
    ) -> None:
        if count < 1:
            raise DataError(f"Expected at least 1 sample to keep answers for, got {count}.")
        self.teacher, self.count = teacher, count
        self.notes: list[str] = []
        self._progress, self._quiet = progress, quiet
        self._label = label
        self._views: dict[int, dict[str, np.ndarray]] = {}
        self._damaged: set[int] = set()
        # Taken once: a teacher that is trained in the meantime counts as a different one.
        self._key = _plain({"format": _FORMAT, "teacher": teacher.identity, "about": about, "count": count})
        self._folder = None if folder is None or isinstance(teacher, Precomputed) else Path(folder)
        if self._folder is not None:
            if teacher.fingerprint is None:
                raise DataError(
                    f"The answers of '{teacher.name}' are not kept in {folder}: it is a function, so a change in it "
                    "could not be detected. Keep them in memory (no folder), or pass a model."
                )
            _claim(self._folder, self._key, teacher.name)

    def view(self, number: int, batches: Callable[[], Iterable[Any]]) -> dict[str, np.ndarray]:
        """Return the answers to all samples of view `number`, in order: (count, ...) by name, read-only.

        Args:
            number: of the view.
            batches: returns the inputs of the view, x or (x, labels), in batches of any size; called only if the view
                is missing.

        Returns:
            Arrays by name.

        Raises:
            DataError: more or fewer samples than `count`.
            ModelError: as for `Teacher.predict`.
            OutputError: the disk is full.
        """
        if number not in self._views:
            self._views[number] = self._found(number) or self._computed(number, batches)
            for array in self._views[number].values():
                array.flags.writeable = False
        return self._views[number]

    def bytes_per_view(self, batch: Any) -> int:
        """Return the size of a view in bytes, estimated from the answers to one batch, x or (x, labels)."""
        if isinstance(self.teacher, Precomputed):
            return sum(rows.nbytes for rows in self.teacher.aligned(self.count).values())
        found = next(iter(self.teacher.each([batch])))
        return sum(self._row_bytes(name, rows) for name, rows in found.items()) * self.count

    def _row_bytes(self, name: str, rows: np.ndarray) -> int:
        return math.prod(rows.shape[1:]) * (4 if name == OUTPUT else 2)

    def _computed(self, number: int, batches: Callable[[], Iterable[Any]]) -> dict[str, np.ndarray]:
        if isinstance(self.teacher, Precomputed):
            if number:
                raise DataError(
                    f"The precomputed outputs '{self.teacher.name}' are for the unaugmented inputs, not for augmented "
                    f"view {number}. Leave augmentation out, or pass the teacher itself."
                )
            return self.teacher.aligned(self.count)
        if self._folder is None:
            return self._in_half(number, batches)
        with locked(self._folder / LOCK, f"The cache {self._folder}", wait=self._say):
            remove_leftovers(self._folder, "view")
            return self._found(number) or self._in_half(number, batches)

    def _say(self, line: str) -> None:
        if self._progress is not None and not self._quiet:
            self._progress.say(line)

    def _in_half(self, number: int, batches: Callable[[], Iterable[Any]]) -> dict[str, np.ndarray]:
        """Compute a view with features in float16 if they fit, else in float32."""
        self._check_unchanged()
        try:
            return self._written(number, batches, np.dtype(np.float16))
        except _TooLargeError as error:
            self.notes.append(f"view {number}: features of '{error}' are too large for float16, so kept as float32")
            return self._written(number, batches, np.dtype(np.float32))

    def _written(self, number: int, batches: Callable[[], Iterable[Any]], dtype: np.dtype) -> dict[str, np.ndarray]:
        """Run the teacher over a view and store features as `dtype`. Raise _TooLargeError if they overflow it."""
        with ExitStack() as stack:
            store: _Memory | _Disk = _Memory(self.count)
            if self._folder is not None:
                store = _Disk(self.count, self._folder, lambda name: self._path(number, name), stack)
            label = self._label or f"teacher {self.teacher.name}, view {number}"
            advance = stack.enter_context(progress_bar(label, self.count, self._progress, quiet=self._quiet))
            done = 0
            for part in self.teacher.each(batches()):
                rows = {n: _stored(n, r, np.dtype(np.float32) if n == OUTPUT else dtype) for n, r in part.items()}
                done += len(next(iter(rows.values())))
                if done > self.count:
                    break
                store.add(rows)
                advance(len(next(iter(rows.values()))))
            if done != self.count:
                more = "more" if done > self.count else f"{done:,}"
                raise DataError(
                    f"Expected {self.count:,} samples in view {number}, got {more}; give each sample exactly once."
                )
            self._check_unchanged()
            store.close()
        if isinstance(store, _Memory):
            return store.arrays
        found = self._found(number)
        if found is None:
            raise OutputError(f"The answers in {self._folder} changed while they were written. Check the disk.")
        return found

    def _check_unchanged(self) -> None:
        if _plain(self.teacher.identity) != self._key["teacher"]:
            raise DataError(
                f"The teacher '{self.teacher.name}' changed while its answers were being computed; do not train it "
                "during that time."
            )

    def _found(self, number: int) -> dict[str, np.ndarray] | None:
        """Return the view from the folder; None if it is missing, incomplete or damaged."""
        if self._folder is None:
            return None
        paths = {name: self._path(number, name) for name in self.teacher._names()}
        if not all(path.exists() for path in paths.values()):
            return None
        try:
            with reading(DataError):
                return {name: _loaded(path, self.count) for name, path in paths.items()}
        except DataError as error:
            if number not in self._damaged:  # it is read before and under the lock
                self._damaged.add(number)
                self.notes.append(f"view {number} in {self._folder} is damaged ({error}): computed again")
            return None

    def _path(self, number: int, name: str) -> Path:
        """Return the file of an answer. Its name contains the key, so no process with another key can replace it."""
        assert self._folder is not None
        what = OUTPUT if name == OUTPUT else f"feature{self.teacher.layers.index(name)}"
        key = sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"view{number}-{what}-{key}.npy"


class _TooLargeError(Exception):
    """A feature, by layer name, that overflows float16."""


def _stored(name: str, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.float16 and rows.size and np.abs(rows).max() > np.finfo(np.float16).max:
        raise _TooLargeError(name)
    return np.ascontiguousarray(rows, dtype)


@dataclass
class _Memory:
    """A view assembled in memory, in preallocated arrays."""

    count: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    done: int = 0

    def add(self, rows: dict[str, np.ndarray]) -> None:
        for name, part in rows.items():
            if name not in self.arrays:
                self.arrays[name] = np.empty((self.count, *part.shape[1:]), part.dtype)
            self.arrays[name][self.done : self.done + len(part)] = part
        self.done += len(next(iter(rows.values())))

    def close(self) -> None: ...


class _Disk:
    """A view assembled in temporary files; they are renamed if `stack` exits cleanly, else removed.

    Each is a `.npy` file followed by four extra bytes: the CRC-32 of the values.
    """

    def __init__(self, count: int, folder: Path, path: Callable[[str], Path], stack: ExitStack) -> None:
        self._count, self._folder, self._path, self._stack = count, folder, path, stack
        self._files: dict[str, BinaryIO] = {}
        self._sums: dict[str, int] = {}

    def add(self, rows: dict[str, np.ndarray]) -> None:
        try:
            if not self._files:
                self._open(rows)
            for name, part in rows.items():
                data = part.reshape(-1).view(np.uint8).data
                self._files[name].write(data)
                self._sums[name] = zlib.crc32(data, self._sums[name])
        except OSError as error:
            raise OutputError(f"Cannot write answers to {self._folder}: {error.strerror or error}.") from error

    def close(self) -> None:
        for name, file in self._files.items():
            file.write(self._sums[name].to_bytes(4, "little"))
            file.close()

    def _open(self, rows: dict[str, np.ndarray]) -> None:
        needed = sum(part[:1].nbytes for part in rows.values()) * self._count
        free = shutil.disk_usage(self._folder).free
        if needed + _ROOM_LEFT > free:
            raise OutputError(
                f"A view of the answers takes {needed / 2**30:.2f} GiB, and {self._folder} has {free / 2**30:.2f} GiB "
                "free. Make room, name another folder, or ask for fewer or smaller layers."
            )
        for name, part in rows.items():
            temporary = self._stack.enter_context(atomic_path(self._path(name)))
            file = self._stack.enter_context(temporary.open("wb"))
            shape = (self._count, *part.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            self._files[name], self._sums[name] = file, 0


def _loaded(path: Path, count: int) -> np.ndarray:
    """Return the array in `path`, memory-mapped. Raise ValueError unless it is what was written for `count` samples."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape[:1] != (count,):
        raise ValueError(f"{path.name} does not hold {count:,} rows of floats")
    with path.open("rb") as file:
        file.seek(path.stat().st_size - array.nbytes - 4)
        found = 0
        left = array.nbytes
        while left and (block := file.read(min(left, 2**22))):
            found = zlib.crc32(block, found)
            left -= len(block)
        if left or file.read() != found.to_bytes(4, "little"):
            raise ValueError(f"{path.name} has another checksum")
    return array


def empty(folder: Path) -> None:
    """Remove the answers in `folder`, which the caller has locked; the lock stays."""
    others = [path for path in folder.iterdir() if path.name not in (LOCK, _META)]
    for path in (*others, folder / _META):  # the claim at last: an interrupted removal goes on the next time
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _claim(folder: Path, key: dict[str, Any], name: str) -> None:
    """Claim `folder` for answers with `key`, or check that it is already theirs. Raise DataError if it is not."""
    meta = folder / _META
    if not meta.exists():
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; expected a folder for the answers of '{name}'.")
        if folder.is_dir() and any(not file.name.startswith(".") and file.name != _META for file in folder.iterdir()):
            raise DataError(
                f"{folder} holds files but no {_META}, so it is not a folder of answers. Name another folder."
            )
        _write_first(meta, json.dumps({"teacher name": name, "key": key}, indent=2) + "\n")
    with reading(lambda why: DataError(f"{meta} cannot be read ({why}). Delete the folder {folder}, or name another.")):
        stored = parse_json(meta.read_text())["key"]
    if differing := list(differences(stored, key)):
        raise StaleAnswersError(
            f"{folder} holds answers for something else: {'; '.join(differing)}. Delete the folder, or name another."
        )


def _write_first(path: Path, text: str) -> None:
    """Write `path` atomically; if another process wrote it first, keep that content."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        try:
            os.link(temporary, path)  # unlike a rename, a link never replaces
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            temporary.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write to the folder {path.parent}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values after a JSON round trip. Raise DataError for values that JSON cannot hold."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise DataError(f"Expected what the answers depend on as plain values (JSON), got: {error}.") from error
    return plain


def array_about(x: Any) -> dict[str, Any]:
    """Return what identifies in-memory inputs: shape, dtype and SHA-256 of each array (also in lists and dicts).

    Use it as a part of `about` for `Answers`.
    """
    if isinstance(x, dict):
        return {str(name): array_about(part) for name, part in x.items()}
    if isinstance(x, list | tuple):
        return {str(i): array_about(part) for i, part in enumerate(x)}
    array = np.ascontiguousarray(x)
    if array.dtype.hasobject:
        raise DataError(f"Expected an array of numbers, got dtype {array.dtype}; convert it first.")
    digest = sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
    return {"shape": list(np.shape(x)), "dtype": str(array.dtype), "sha256": digest}


def require_deterministic(dataset: Any, *, batches: int = 3) -> None:
    """Raise DataError, with the reason, unless a tf.data.Dataset yields the same elements on each iteration.

    Only the first `batches` elements are compared.
    """
    first, second = (_elements(dataset, batches) for _ in range(2))
    if _same(first, second):
        return
    rows = [sorted(row.tobytes() for x, *_ in elements for row in np.atleast_1d(x)) for elements in (first, second)]
    if rows[0] == rows[1]:
        why = "the same samples come in a different order the second time: it is shuffled"
    else:
        why = "different values come the second time: it is shuffled, or augmented without a seed"
    raise DataError(
        f"The teacher's answers cannot be kept for this tf.data: {why}. Shuffle with "
        "reshuffle_each_iteration=False, augment with a seed (tfopt.Training), or let the teacher answer live."
    )


def _elements(dataset: Any, batches: int) -> list[list[np.ndarray]]:
    import tensorflow as tf

    return [[np.asarray(leaf) for leaf in tf.nest.flatten(e)] for e in dataset.take(batches).as_numpy_iterator()]


def _same(first: Sequence[Sequence[np.ndarray]], second: Sequence[Sequence[np.ndarray]]) -> bool:
    if len(first) != len(second):
        return False
    pairs = ((a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
