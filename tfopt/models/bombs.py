"""Checks for archives and HDF5 files that expand to many times their size, link elsewhere, or never end."""

import contextlib
import re
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from tfopt.base.limits import DEEPEST_GROUP, MIB, MOST_OBJECTS, room_for
from tfopt.errors import ModelError

# A global heap collection of HDF5: signature, version, three zero bytes, and its size in eight bytes.
_HEAP = re.compile(rb"GCOL\x01\0\0\0(.{8})", re.DOTALL)
_HEAP_BYTES = 16


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise ModelError for members that would be unpacked outside the target folder, and for zip bombs."""
    members = archive.infolist()
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
            raise ModelError(
                f"{path} holds '{member.filename}', which would be unpacked outside its own folder: Keras writes no "
                "such file. Do not trust where it came from."
            )
    _refuse_expansion(path, path.stat().st_size, sum(member.file_size for member in members))


def check_hdf5(path: Path, source: Any, size: int) -> None:
    """Raise ModelError for a file that claims far more than it holds, refers to other files, or nests endlessly.

    `source` is the path of the HDF5 file or an open binary file of `size` bytes; `path` is named in the message.
    """
    import h5py

    claimed = stored = 0
    longest = _longest_text(source, size)
    with h5py.File(source, "r") as file:
        for item in _objects(path, file):
            for attribute in _attributes(item):  # one at a time: Keras never keeps all of them
                _refuse_expansion(path, size, _bytes(_count(attribute), attribute.get_type(), longest))
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise _elsewhere(path, item.name, "another file")
                claimed, stored = claimed + _dataset_bytes(item, longest), stored + item.id.get_storage_size()
    _refuse_expansion(path, stored, claimed)


def _objects(path: Path, file: Any) -> Iterator[Any]:
    """Yield each group and data set of an HDF5 file once, however many links lead to it."""
    import h5py

    seen = {file}
    waiting = [(file, 0)]
    while waiting:
        group, depth = waiting.pop()
        yield group
        if not isinstance(group, h5py.Group):
            continue
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _elsewhere(path, f"{group.name}/{name}", link.filename)
            if isinstance(link, h5py.SoftLink):  # another name for something visited anyway
                continue
            item = group[name]
            if item in seen:
                continue
            seen.add(item)
            if len(seen) > MOST_OBJECTS or depth >= DEEPEST_GROUP:
                raise ModelError(
                    f"{path} holds more than {MOST_OBJECTS:,} groups and data sets, or groups more than "
                    f"{DEEPEST_GROUP} levels deep, which no saved model does. Do not trust where it came from."
                )
            waiting.append((item, depth + 1))


def _attributes(item: Any) -> Iterator[Any]:
    """Yield the attributes, opened without their values."""
    import h5py

    for index in range(h5py.h5a.get_num_attrs(item.id)):
        yield h5py.h5a.open(item.id, index=index)


def _count(attribute: Any) -> int:
    return 0 if attribute.shape is None else prod(attribute.shape)


def _longest_text(source: Any, size: int) -> int:
    """Return the most bytes that a variable-length value may have: it lies in a heap whose header states its size.

    HDF5 does not reveal before reading whether many such values share the same bytes.
    """
    longest, before = 0, b""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        while block := file.read(MIB):
            before += block
            for found in _HEAP.finditer(before):
                longest = max(longest, min(size, int.from_bytes(found[1], "little")))
            before = before[-_HEAP_BYTES:]
        file.seek(0)
    return longest


def _dataset_bytes(dataset: Any, longest: int) -> int:
    """Return the bytes that reading takes: for a single value, HDF5 unpacks the whole chunk."""
    kind = dataset.id.get_type()
    return max(_bytes(dataset.size or 0, kind, longest), prod(dataset.chunks or (0,)) * int(kind.get_size()))


def _bytes(count: int, kind: Any, longest: int) -> int:
    """Return the bytes of `count` values, counting each variable-length one as `longest`."""
    import h5py

    variable = kind.get_class() == h5py.h5t.VLEN or (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str())
    return count * (longest if variable else int(kind.get_size()))


def _refuse_expansion(path: Path, stored: int, claimed: int) -> None:
    if claimed > room_for(stored):
        raise ModelError(
            f"{path} would grow from {stored:,} to {claimed:,} bytes when read, over the limit of "
            f"{room_for(stored):,}, which no saved model does. Do not trust where it came from."
        )


def _elsewhere(path: Path, name: str, other: str) -> ModelError:
    return ModelError(f"{path} takes '{name}' from {other}: a model file holds its own weights. Save it again whole.")
