"""Folders of files: one folder per class, directly or below train, validation and test, in any case."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfopt.data.mask_layout import has_masks, require_no_masks
from tfopt.data.masks import paired_files
from tfopt.data.parts import Pair, Parts
from tfopt.data.reconstruction import NORMAL
from tfopt.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class FileKind:
    """A kind of samples that are files: its name in messages, and how file names end."""

    name: str
    suffixes: tuple[str, ...]


IMAGES = FileKind("image", IMAGE_SUFFIXES)
RECORDINGS = FileKind("recording", (".wav", ".flac", ".ogg", ".oga", ".aif", ".aiff", ".mp3"))
TEXTS = FileKind("text", (".txt",))
KINDS = (IMAGES, RECORDINGS, TEXTS)
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_TRUTH = "ground_truth"
_Classes = tuple[tuple[str, ...], Pair, tuple[str, ...]]  # the names, files with class numbers, and notes
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")  # by Windows and macOS, in any case


def kind_of(root: Path) -> FileKind:
    """Return the kind of samples in `root` and below it: the first of `KINDS` that has any, else images.

    Files in folders that have no folders count; those beside folders do only if there is none of any kind among these.
    """
    found, loose = set[str](), set[str]()
    for _, folders, names in os.walk(root):
        folders[:] = [name for name in folders if is_shown(name)]
        (loose if folders else found).update(Path(name).suffix.lower() for name in names if is_shown(name))
        if not found.isdisjoint(IMAGES.suffixes):
            break
    known = {suffix for kind in KINDS for suffix in kind.suffixes}
    return _first_kind(loose if found.isdisjoint(known) else found)


def is_shown(name: str) -> bool:
    """Return whether a file or folder is neither hidden nor left by an operating system."""
    return not name.startswith(".") and name.lower() not in _LEFT_BY_SYSTEMS


def _first_kind(suffixes: set[str]) -> FileKind:
    return next((kind for kind in KINDS if not suffixes.isdisjoint(kind.suffixes)), IMAGES)


def read_folder(root: Path, kind: FileKind = IMAGES, *, anomalies: bool = False) -> Parts:
    """List the files of `root` without reading them: classes and files by name, hidden ones left out.

    With `images` and `masks` instead of class folders, the labels are masks, see `tfopt.data.masks`.

    A note names what operating systems leave in folders, such as Thumbs.db, which is left out too.

    Args:
        root: the folder.
        kind: of the samples.
        anomalies: whether all classes but one are anomalies: a part may then lack classes, or have normal samples alone
            without a class folder, and `ground_truth` is left out, where MVTec AD has masks of the anomalies.

    Raises:
        DataError: no class folders, only one class, an empty class, other files or folders among the samples, folders
            that look like images and masks, or classes that differ between train, validation and test.
    """
    source = f"{kind.name} folder {root.resolve().name}"
    if anomalies and not _visible_folders(root):
        names, pair, notes = _normal(root, kind)
        return Parts({"train": pair}, source, names, notes, files=True)
    folders, notes = _subfolders(root, kind)
    if anomalies and (truth := [folder for folder in folders if folder.name.lower() == _TRUTH]):
        folders, notes = [folder for folder in folders if folder not in truth], (*notes, f"left out: {truth[0].name}")
    if has_masks(folders):
        pair = paired_files(folders, kind.suffixes)
        return Parts({"train": pair}, source, None, notes, files=True, masks=True)
    parts = {part: folder for folder in folders if (part := PART_NAMES.get(folder.name.lower()))}
    strangers = [folder.name for folder in folders if folder.name.lower() not in PART_NAMES]
    # A class may be called "train", too: it then holds files, not folders, and is one of several classes.
    if not parts or (strangers and not any(map(_visible_folders, parts.values()))):
        names, pair, more = _classes(root, kind, folders, 1 if anomalies else 2)
        return Parts({"train": pair}, source, names, (*notes, *more), files=True)
    if strangers:
        raise DataError(
            f"Expected only train, validation and test (or training, val, valid, testing) in {root}, also got "
            f"{_first(strangers)}; move them."
        )
    if "train" not in parts:
        raise DataError(f"Expected a train folder in {root}, got {_first(sorted(parts))}; add it.")
    if len(folders) > len(parts):
        found = _first([folder.name for folder in folders], 6)
        raise DataError(f"Expected one folder for each of train, validation and test in {root}, got {found}.")
    if anomalies:
        return _with_anomalies(parts, kind, source, notes)
    below = {name: _subfolders(folder, kind) for name, folder in parts.items()}
    notes += tuple(note for _, more in below.values() for note in more)
    if all(has_masks(each) for each, _ in below.values()):
        masked = {name: paired_files(each, kind.suffixes) for name, (each, _) in below.items()}
        return Parts(masked, source, None, notes, files=True, masks=True)
    read = {name: _classes(folder, kind, below[name][0]) for name, folder in parts.items()}
    _require_same_classes({name: classes for name, (classes, _, _) in read.items()}, root)
    notes += tuple(note for _, _, more in read.values() for note in more)
    return Parts({name: pair for name, (_, pair, _) in read.items()}, source, read["train"][0], notes, files=True)


def _require_same_classes(by_part: dict[str, tuple[str, ...]], root: Path) -> None:
    expected = by_part["train"]
    for name, classes in by_part.items():
        if classes != expected:
            raise DataError(
                f"Expected the same class folders in train and {name} of {root}, got only in train: "
                f"{_first(sorted(set(expected) - set(classes)))}; only in {name}: "
                f"{_first(sorted(set(classes) - set(expected)))}; make them equal."
            )


def _with_anomalies(parts: dict[str, Path], kind: FileKind, source: str, notes: tuple[str, ...]) -> Parts:
    """Return the files of parts with any classes, or with normal samples alone."""
    read: dict[str, _Classes] = {}
    for name, folder in parts.items():
        if _visible_folders(folder):
            classes, more = _subfolders(folder, kind)
            notes += more
            read[name] = _classes(folder, kind, classes, 1)
        else:
            read[name] = _normal(folder, kind)
    known = sorted({each for names, _, _ in read.values() for each in names})
    pairs = {}
    for name, (names, (paths, numbers), more) in read.items():
        notes += more
        pairs[name] = (paths, np.array([known.index(each) for each in names])[numbers])
    return Parts(pairs, source, tuple(known), notes, files=True)


def _normal(folder: Path, kind: FileKind) -> _Classes:
    """Return what `_classes` does for a folder without class folders: all samples are normal."""
    files, notes = _files(folder, kind)
    note = f"the {kind.name}s of {folder.resolve().name} are taken as normal samples, since they lie in no class folder"
    return (NORMAL[0],), (np.array(files, dtype=object), np.zeros(len(files), np.int64)), (*notes, note)


def holds_masks(root: Path) -> bool:
    """Return whether a folder has images and masks, directly or below train, validation and test."""
    folders = _visible_folders(root)
    parts = [folder for folder in folders if folder.name.lower() in PART_NAMES]
    return has_masks(folders) or any(has_masks(_visible_folders(part)) for part in parts)


def _visible_folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder)[0] if path.is_dir()]


def loose_files(root: Path) -> tuple[FileKind, list[Path]]:
    """Return the samples of a folder that has no folders, and so no classes, and their kind; none for another one."""
    entries = _entries(root)[0] if root.is_dir() else []
    if any(path.is_dir() for path in entries):
        return IMAGES, []
    kind = _first_kind({path.suffix.lower() for path in entries})
    return kind, [path for path in entries if path.suffix.lower() in kind.suffixes]


def _classes(folder: Path, kind: FileKind, classes: list[Path], fewest: int = 2) -> _Classes:
    """Return the class names, the paths of the files with their class numbers, and notes.

    Raises:
        DataError: there are not the `fewest` classes, or they look like images and masks, or as `_files`.
    """
    if len(classes) < fewest:
        found = f"only {classes[0].name}" if classes else "none"
        raise DataError(
            f"Expected at least two class folders in {folder}, got {found}; put the {kind.name}s into one "
            "folder per class."
        )
    require_no_masks(folder, classes)
    listed = [_files(each, kind) for each in classes]
    files = [found for found, _ in listed]
    notes = tuple(note for _, more in listed for note in more)
    paths = np.array([path for group in files for path in group], dtype=object)
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in files])
    return tuple(each.name for each in classes), (paths, labels), notes


def _entries(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return what is in a folder, by name, and a note on what the operating system has left there."""
    seen = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    left = [path.name for path in seen if path.name.lower() in _LEFT_BY_SYSTEMS]
    notes = (f"ignored in {folder.name}, left by the operating system: {_first(left)}",) if left else ()
    return [path for path in seen if path.name not in left], notes


def _files(folder: Path, kind: FileKind) -> tuple[list[Path], tuple[str, ...]]:
    files, notes = _entries(folder)
    if not files:
        raise DataError(f"Expected {kind.name}s in the class folder {folder}, got none; add some or remove the folder.")
    if others := [path.name for path in files if path.suffix.lower() not in kind.suffixes]:
        raise DataError(
            f"Expected only {kind.name}s ({', '.join(kind.suffixes)}) in {folder}, got {_first(others)}; move them."
        )
    return files, notes


def _subfolders(folder: Path, kind: FileKind) -> tuple[list[Path], tuple[str, ...]]:
    """Return subfolders by name and a note on loose files; loose samples have no class and are an error."""
    entries, notes = _entries(folder)
    folders = [path for path in entries if path.is_dir()]
    loose = [path for path in entries if not path.is_dir()]
    if samples := [path.name for path in loose if path.suffix.lower() in kind.suffixes]:
        raise DataError(
            f"Expected one folder per class in {folder}, got loose {kind.name}s: {_first(samples)}; move each into "
            "the folder of its class."
        )
    if loose:
        notes += (f"ignored files next to the folders in {folder.name}: {_first([path.name for path in loose])}",)
    return folders, notes


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count:,} more" if len(names) > count else "") or "none"
