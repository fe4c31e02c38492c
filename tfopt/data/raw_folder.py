"""Folders of other files than images: recordings and texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfopt.base.limits import LARGEST_JSON
from tfopt.base.reading import reading
from tfopt.data.folder import RECORDINGS, FileKind, read_folder
from tfopt.data.front_end import FrontEnd
from tfopt.data.parts import Parts
from tfopt.data.sound import Sound
from tfopt.data.text import Text
from tfopt.errors import DataError


def read_raw_folder(root: Path, kind: FileKind, front_end: FrontEnd | None, *, anomalies: bool = False) -> Parts:
    """Return the samples of a folder that `front_end`, by default one for their kind, prepares.

    Args:
        root: the folder.
        kind: of the samples.
        front_end: what is to prepare them.
        anomalies: as for `read_folder`.

    Raises:
        DataError: as for `read_folder`; a text cannot be read; or `front_end` is for other samples.
    """
    parts, pairs = read_folder(root, kind, anomalies=anomalies), {}
    for name, (paths, y) in parts.pairs.items():
        raw, front_end = raw_samples(root, paths, kind, front_end)
        pairs[name] = (raw, y)
    return replace(parts, pairs=pairs, files=False, front_end=front_end)


def raw_samples(
    root: Path, paths: Iterable[Path], kind: FileKind, front_end: FrontEnd | None
) -> tuple[np.ndarray, FrontEnd]:
    """Return the raw samples in files, an object array (n,), and `front_end`, by default one for their kind.

    Args:
        root: the folder, for messages.
        paths: of the files.
        kind: recordings, which stay paths, or texts.
        front_end: what is to prepare them.

    Raises:
        DataError: a text cannot be read, or `front_end` is for other samples.
    """
    default: FrontEnd = Sound() if kind is RECORDINGS else Text()
    if type(front_end or default) is not type(default):
        raise DataError(f"Expected a folder of {(front_end or default).subject}, got {default.subject} in {root}.")
    samples = paths if kind is RECORDINGS else map(_text, paths)
    return np.array([*samples, None], object)[:-1], front_end or default


def _text(path: Path) -> str:
    with reading(lambda why: DataError(f"Expected a text in UTF-8, got {path}: {why}; convert or remove it.")):
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size:,} bytes are over the limit of {LARGEST_JSON:,}")
        text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise DataError(f"Expected words in {path}, got an empty text; fill or remove it.")
    return text
