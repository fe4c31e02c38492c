"""Zip archives and the arrays in them (.npz). Their claims are checked before anything is read."""

import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfopt.base.limits import GIB, LARGEST_DATA, MOST_ARRAYS, MOST_MEMBERS

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _LONGEST_COMMENT = 22, 56, 20, 2**16
# A directory entry takes 46 bytes plus the name; names rarely average more than this.
_ENTRY_BYTES = 46 + 210
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Header:
    """The claims of a `.npy` header."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The size of the array in bytes; a value without bytes (an empty string) counts as one."""
        return prod(self.shape) * max(self.dtype.itemsize, 1)


@contextmanager
def open_zip(path: str | os.PathLike[str] | IO[bytes], members: int = MOST_MEMBERS) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading; call within `reading`.

    Raises:
        ValueError: more than `members` members. Checked before they are listed, since each takes memory in Python.
    """
    if isinstance(path, str | os.PathLike):
        with open(path, "rb") as file:  # noqa: PTH123 (it may be a string)
            size = _directory_bytes(file)
    else:
        size = _directory_bytes(path)
        path.seek(0)
    too_many = f"an archive may have at most {members:,} members; this one has"
    if size > members * _ENTRY_BYTES:
        raise ValueError(f"{too_many} a directory of {size:,} bytes")
    with zipfile.ZipFile(path) as archive:
        if (number := len(archive.infolist())) > members:
            raise ValueError(f"{too_many} {number:,}")
        yield archive


def read_npz(
    source: str | os.PathLike[str] | IO[bytes], most: int = LARGEST_DATA, members: int = MOST_MEMBERS
) -> dict[str, np.ndarray]:
    """Return the arrays of a `.npz` by name; call within `reading`. Members that are not `.npy` are left out.

    Raises:
        ValueError: `npz_headers` rejects the file, or text is invalid.
    """
    with open_zip(source, members) as archive:
        found = {}
        for name in _headers(archive, most):
            with archive.open(f"{name}.npy") as member:
                found[name] = _checked_text(np.lib.format.read_array(member, allow_pickle=False), name)
        return found


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `.npz` that `np.savez` has written, however large a model it is of.

    It is not compressed, so that its arrays take no more memory than the file takes on the disk.

    Raises:
        ValueError: as `read_npz`.
    """
    return read_npz(path, path.stat().st_size, MOST_ARRAYS)


def _checked_text(array: np.ndarray, name: str) -> np.ndarray:
    """Return `array`. Raise ValueError for text with invalid code points, on which Python fails later."""
    if array.dtype.kind == "U" and array.size:
        codes = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name} contains invalid characters")
    return array


def npz_headers(source: str | os.PathLike[str] | IO[bytes], most: int = LARGEST_DATA) -> dict[str, Header]:
    """Return the headers of the arrays of a `.npz`, by name, without reading values; call within `reading`.

    Raises:
        ValueError: Python objects, a header that claims more than its member holds, or more than `most` bytes in total.
    """
    with open_zip(source) as archive:
        return _headers(archive, most)


def _headers(archive: zipfile.ZipFile, most: int) -> dict[str, Header]:
    found: dict[str, Header] = {}
    for member in archive.infolist():
        name, dot, ending = member.filename.rpartition(".")
        if dot and ending == "npy":
            found[name] = _header(archive, member)
    claimed = sum(header.nbytes for header in found.values())
    if claimed > most:
        raise ValueError(f"its arrays take {claimed / GIB:,.1f} GiB, over the limit of {most / GIB:.4g} GiB")
    return found


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has version {version} of the .npy format; expected 1.0 or 2.0")
        shape, _, dtype = _HEADERS[version](file)
        begin = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which are never read from files")
    header = Header(shape, dtype)
    if any(side < 0 for side in shape) or header.nbytes > member.file_size - begin:
        raise ValueError(
            f"{member.filename} claims {dtype} of shape {shape}, but holds {member.file_size - begin:,} bytes of values"
        )
    return header


def _directory_bytes(file: IO[bytes]) -> int:
    """Return the size of a zip's directory as its end record states it; 0 without an end record, i.e. not a zip.

    Several records may look like an end, e.g. that of a zip inside the zip; the largest size counts. A size larger
    than the bytes before the record is ignored: a directory precedes its end record.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _END_BYTES - _LONGEST_COMMENT - _LOCATOR_BYTES - _END64_BYTES))
    tail = file.read()
    sizes = [struct.unpack_from("<I", tail, place + 12)[0] for place in _places(tail, _END, _END_BYTES)]
    sizes += [struct.unpack_from("<Q", tail, place + 40)[0] for place in _places(tail, _END64, _END64_BYTES)]
    for place in _places(tail, _LOCATOR64, _LOCATOR_BYTES):
        file.seek(min(length, struct.unpack_from("<Q", tail, place + 8)[0]))
        record = file.read(_END64_BYTES)
        if len(record) == _END64_BYTES and record.startswith(_END64):
            sizes.append(struct.unpack_from("<Q", record, 40)[0])
    return max((size for size in sizes if size <= length), default=0)


def _places(tail: bytes, signature: bytes, length: int) -> Iterator[int]:
    """Yield the offsets at which a record of `length` bytes may begin in `tail`."""
    place = tail.find(signature)
    while 0 <= place <= len(tail) - length:
        yield place
        place = tail.find(signature, place + 1)
