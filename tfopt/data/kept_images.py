"""Decoded images that are kept in a folder between runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tfopt.base.limits import LARGEST_JSON
from tfopt.base.locks import locked
from tfopt.base.progress import Progress
from tfopt.base.reading import parse_json, reading
from tfopt.data.image_files import read_images
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.stored import ROWS, StoredArray
from tfopt.errors import DataError

_ABOUT = "about.json"
_UNFINISHED = "unfinished_"
_FORM = 1  # of what is kept; another number makes older folders useless


def read_kept_images(
    files: list[Path], preprocessing: Preprocessing, source: str, folder: Path
) -> tuple[Any, Preprocessing, tuple[str, ...]]:
    """Return what `read_images` does, decoded only if `folder` does not have the same files in the same form.

    Files are the same if the absolute path of their common folder, their names below it, sizes in bytes and times of
    change are. Another process that decodes images there is waited for.

    Args:
        files: the images.
        preprocessing: their size and color.
        source: the origin, for messages.
        folder: has an entry for each set of files and form; it is made if it is missing.

    Raises:
        DataError: as `read_images`, or the folder cannot be written.
    """
    ordered = sorted(set(files))
    entry = folder / _key(ordered, preprocessing)
    kept = _kept(entry)
    note = f"decoded images from {folder}"
    if kept is None and _made(entry, ordered, preprocessing, source):
        note = f"decoded images are kept in {folder} for later runs"
    images, about = kept or _kept(entry) or _gone(entry)
    place = {file: number for number, file in enumerate(ordered)}
    images = images.take(np.array([place[file] for file in files]))
    height, width = about["size"]
    return images, replace(preprocessing, size=(height, width), color=about["color"]), (*about["notes"], note)


def _key(files: list[Path], preprocessing: Preprocessing) -> str:
    root = os.path.commonpath([file.parent for file in files])
    found = ((os.path.relpath(file, root), file.stat()) for file in files)
    states = [(name, state.st_size, state.st_mtime_ns) for name, state in found]
    about = [_FORM, preprocessing.size, preprocessing.color, str(Path(root).resolve()), states]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _kept(entry: Path) -> tuple[StoredArray, dict[str, Any]] | None:
    """Return images and what is known about them; None if they are missing or not whole."""
    try:
        with reading(lambda why: DataError(f"{entry}: {why}.")):
            if (entry / _ABOUT).stat().st_size > LARGEST_JSON:
                return None
            about = parse_json((entry / _ABOUT).read_bytes())
            shape = tuple(int(size) for size in about["shape"])
            whole = (entry / ROWS).stat().st_size == math.prod(shape)
            images = StoredArray(entry / ROWS, shape[1:], np.dtype(np.uint8), np.arange(shape[0]), about["digest"])
            return (images, about) if whole and len(shape) == 4 else None
    except DataError:
        return None


def _gone(entry: Path) -> NoReturn:
    raise DataError(f"Expected the decoded images in {entry}, which was changed meanwhile; load them again.")


def _made(entry: Path, files: list[Path], preprocessing: Preprocessing, source: str) -> bool:
    """Make `entry`. Return False if another process has done so meanwhile."""
    folder = entry.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    with locked(folder / ".lock", f"The cache {folder}", wait=Progress().say):
        for left in folder.glob(f"{_UNFINISHED}*"):  # of processes that ended
            shutil.rmtree(left, ignore_errors=True)
        if _kept(entry) is not None:
            return False
        _decode_into(entry, files, preprocessing, source)
        return True


def _decode_into(entry: Path, files: list[Path], preprocessing: Preprocessing, source: str) -> None:
    """Decode images into another folder that takes the name `entry` once it is whole."""
    try:
        made = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=entry.parent))
    except OSError as error:
        raise _cannot_write(entry.parent, error) from error
    try:
        images, filled, notes = read_images(files, preprocessing, source, made)
        about = {"shape": images.shape, "digest": images.digest, "notes": notes}
        (made / _ABOUT).write_text(json.dumps({**about, "size": filled.size, "color": filled.color}), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)
        made.rename(entry)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(f"Expected a folder for decoded images to write to, got {folder}: {error}.")
