"""Files of images as arrays: decoded once, or whenever they are read."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.limits import LARGEST_IN_MEMORY
from tfopt.base.reading import reading
from tfopt.data.images import (
    CHANNELS,
    GRAY,
    SIXTEEN_BITS,
    WITH_ALPHA,
    Decoded,
    Size,
    decode_file,
    in_threads,
    open_image,
    orientation_of,
    shown_size,
    unreadable,
)
from tfopt.data.preprocessing import Color, Preprocessing
from tfopt.data.stored import Collector, RowsOnDisk, StoredArray

_BATCH = 64
_FEW_BITS = 14  # with as many of 16, images have a quarter of the values that 8 bits have
_SPARED = 0.1  # of the free space of a disk, which decoded images leave


@dataclass(frozen=True, eq=False)
class ImageFiles(RowsOnDisk):
    """Images uint8 (n, height, width, channels) that are decoded whenever they are read, many of them in threads.

    Args:
        files: of all images.
        row: (height, width, channels) of each.
        color: of each.
        places: integers (n,), the images that this array has, in order.
        digest: SHA-256 (hex) of the pixels of all images, in order.
        resized: whether images have other sizes in their files.
    """

    files: tuple[Path, ...]
    row: tuple[int, int, int]
    color: Color
    places: np.ndarray
    digest: str
    resized: bool
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return the images at `key` (an integer, integers, booleans, a slice) in memory."""
        places = self.places[key]
        height, width, _ = self.row
        found = np.empty((places.size, *self.row), self.dtype)
        reference = None if self.resized else (self.files[0], (height, width))
        decode = partial(decode_file, size=(height, width), color=self.color, reference=reference)
        files = [self.files[place] for place in places.flat]
        # Batches are already made in parallel; more threads would only wait for Python's lock.
        with ThreadPoolExecutor(os.cpu_count()) if len(files) > _BATCH else nullcontext() as pool:
            for number, (pixels, *_) in enumerate(pool.map(decode, files) if pool else map(decode, files)):
                found[number] = pixels
        return found.reshape(*places.shape, *self.row)


def read_images(
    files: list[Path],
    preprocessing: Preprocessing,
    source: str,
    folder: Path | None = None,
    *,
    again: bool | None = False,
) -> tuple[Any, Preprocessing, tuple[str, ...]]:
    """Decode `files` to uint8 (n, height, width, channels), in their order; many of them into a file.

    Without `preprocessing.color` the images become grayscale if all of them are, else RGB; without `preprocessing.size`
    they must all have the same size. Photos are turned as their EXIF orientation says, as viewers and phones show them
    (Keras and TensorFlow do not). 16 bits become 8, transparency is dropped, and only the first frame of an animation
    is read.

    Args:
        files: the images.
        preprocessing: their size and color.
        source: the origin, for messages.
        folder: where to keep the decoded images; None keeps them in memory, or in a temporary file.
        again: whether to decode images whenever they are read, instead of keeping them, after all have been decoded to
            check them; None: only where neither the memory nor the disk has room for them.

    Returns:
        The pixels, the preprocessing with size and color filled in, and notes on conversions.

    Raises:
        DataError: a file is not a readable image of 8 or 16 bits, sizes differ, or the pixels do not fit on the disk.
    """
    size = preprocessing.size or _size_of(files[0])
    color = preprocessing.color or _color_of(files)
    seen = _Seen(color, size)
    reference = None if preprocessing.size else (files[0], size)
    decoded = seen.pixels(in_threads(partial(decode_file, size=size, color=color, reference=reference), files, source))
    row = (*size, CHANNELS[color])
    whole, where = len(files) * math.prod(row), Path(tempfile.gettempdir())
    if again or (again is None and folder is None and not _has_room(where, whole)):
        digest = hashlib.sha256()
        for pixels in decoded:
            digest.update(np.ascontiguousarray(pixels).data)
        found = tuple(file.absolute() for file in files)  # a later chdir does not matter
        images: Any = ImageFiles(found, row, color, np.arange(len(files)), digest.hexdigest(), reference is None)
        why = "" if again else f", since they take {whole / 2**30:,.1f} GiB, too many for {where}"
        kept = [f"images are decoded whenever they are read{why}"]
    else:
        collector = Collector(f"the images of {source}", rows=None if folder else len(files), folder=folder)
        for pixels in decoded:
            collector.append(pixels[None])
        images = collector.result()
        in_file = isinstance(images, StoredArray) and folder is None
        kept = [f"{images.nbytes / 2**30:.1f} GiB of decoded images lie in a temporary file"] if in_file else []
    return images, replace(preprocessing, size=size, color=color), (*seen.notes(), *kept)


def _has_room(folder: Path, number: int) -> bool:
    """Return whether `number` bytes may be in memory, or in a file of `folder`."""
    if number <= LARGEST_IN_MEMORY:
        return True
    return number <= (1 - _SPARED) * shutil.disk_usage(folder).free


class _Seen:
    """Counts what the files of images are like while they are decoded to `color` and `size`."""

    def __init__(self, color: Color, size: Size) -> None:
        self._color, self._size = color, size
        self._sizes: set[Size] = set()
        self._modes: Counter[str] = Counter()
        self._turned = 0
        self._largest = 0

    def pixels(self, decoded: Iterator[Decoded]) -> Iterator[np.ndarray]:
        """Yield the pixels."""
        for pixels, mode, turned, largest, size in decoded:
            self._sizes.add(size)
            self._modes[mode] += 1
            self._turned += turned
            self._largest = max(self._largest, largest)
            yield pixels

    def notes(self) -> tuple[str, ...]:
        """Return notes on conversions."""
        total = self._modes.total()
        notes = []
        wanted = GRAY if self._color == "grayscale" else ("RGB",)
        for mode, count in sorted(self._modes.items()):
            if mode not in wanted:
                dropped = ", transparency dropped" if mode in WITH_ALPHA or "transparency" in mode else ""
                notes.append(f"{count:,} of {total:,} images are {mode}: converted to {self._color}{dropped}")
        if count := sum(count for mode, count in self._modes.items() if mode.startswith(SIXTEEN_BITS)):
            notes.append(f"{count:,} of {total:,} images have 16 bits: reduced to 8{self._dark()}")
        if self._turned:
            notes.append(f"{self._turned:,} of {total:,} images are turned as their EXIF orientation says")
        if len(self._sizes) > 1:
            ordered = sorted(self._sizes, key=math.prod)
            small, large, target = (f"{height}x{width}" for height, width in (ordered[0], ordered[-1], self._size))
            notes.append(f"images of several sizes, from {small} to {large} (height x width), resized to {target}")
        return tuple(notes)

    def _dark(self) -> str:
        """Return what to do about images of 16 bits, as cameras and scanners write them, that leave bits unused."""
        bits = self._largest.bit_length()
        if not 0 < bits <= _FEW_BITS:
            return ""
        return (
            f"; no value is above {self._largest:,} (bits: {bits}), so they are dark: multiply the values by "
            f"{2 ** (16 - bits):,} in the files"
        )


def _color_of(files: list[Path]) -> Color:
    """Return "grayscale" if all images are; reads their headers only, up to the first in color."""
    for file in files:
        with open_image(file) as image:
            if image.mode not in GRAY:
                return "rgb"
    return "grayscale"


def _size_of(file: Path) -> Size:
    with open_image(file) as image, reading(partial(unreadable, file)):
        return shown_size(image, orientation_of(image))
