"""Image folders: one folder per class, directly or below train, validation and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfopt.data.parts import Pair, Parts
from tfopt.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_PART_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def read_folder(root: Path) -> Parts:
    """List the images of `root` without decoding them: classes and files by name, hidden ones left out.

    Raises:
        DataError: no class folders, only one class, an empty class, other files or folders among the images, or
            classes that differ between train, validation and test.
    """
    folders, notes = _subfolders(root)
    parts = {_PART_NAMES[folder.name]: folder for folder in folders if folder.name in _PART_NAMES}
    strangers = [folder.name for folder in folders if folder.name not in _PART_NAMES]
    # A class may be called "train", too: it then holds images, not folders, and is one of several classes.
    if not parts or (strangers and not any(path.is_dir() for part in parts.values() for path in part.iterdir())):
        names, pair, notes = _classes(root)
        return Parts({"train": pair}, f"image folder {root.resolve().name}", names, notes, files=True)
    if strangers:
        raise DataError(
            f"Expected only train, validation (or val) and test in {root}, also got {_first(strangers)}; move them."
        )
    if "train" not in parts:
        raise DataError(f"Expected a train folder in {root}, got {_first(sorted(parts))}; add it.")
    if len(folders) > len(parts):
        raise DataError(f"Expected either val or validation in {root}, got both; keep one.")
    read = {name: _classes(folder) for name, folder in parts.items()}
    notes += tuple(note for _, _, more in read.values() for note in more)
    expected = read["train"][0]
    for name, (classes, _, _) in read.items():
        if classes != expected:
            raise DataError(
                f"Expected the same class folders in train and {name} of {root}, got only in train: "
                f"{_first(sorted(set(expected) - set(classes)))}; only in {name}: "
                f"{_first(sorted(set(classes) - set(expected)))}; make them equal."
            )
    pairs = {name: pair for name, (_, pair, _) in read.items()}
    return Parts(pairs, f"image folder {root.resolve().name}", expected, notes, files=True)


def _classes(folder: Path) -> tuple[tuple[str, ...], Pair, tuple[str, ...]]:
    """Return the class names, the image paths with their class numbers, and notes."""
    classes, notes = _subfolders(folder)
    if len(classes) < 2:
        found = f"only {classes[0].name}" if classes else "none"
        raise DataError(
            f"Expected at least two class folders in {folder}, got {found}; put the images into one folder per class."
        )
    images = [_images(each) for each in classes]
    paths = np.array([path for group in images for path in group], dtype=object)
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in images])
    return tuple(each.name for each in classes), (paths, labels), notes


def _images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not files:
        raise DataError(f"Expected images in the class folder {folder}, got none; add some or remove the folder.")
    if others := [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]:
        raise DataError(
            f"Expected only images ({', '.join(IMAGE_SUFFIXES)}) in {folder}, got {_first(others)}; move them."
        )
    return files


def _subfolders(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return subfolders by name and a note on loose files; loose images have no class and are an error."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    loose = [path for path in entries if not path.is_dir()]
    if images := [path.name for path in loose if path.suffix.lower() in IMAGE_SUFFIXES]:
        raise DataError(
            f"Expected one folder per class in {folder}, got loose images: {_first(images)}; move them into one."
        )
    names = _first([path.name for path in loose])
    return folders, (f"ignored files next to the folders in {folder.name}: {names}",) if loose else ()


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count:,} more" if len(names) > count else "") or "none"
