"""Folders of other files than images: recordings and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tfopt.base.limits import LARGEST_JSON
from tfopt.base.reading import reading
from tfopt.data.folder import RECORDINGS, kind_of, read_folder
from tfopt.data.front_end import FrontEnd
from tfopt.data.parts import Parts
from tfopt.data.sound import Sound
from tfopt.data.text import Text
from tfopt.errors import DataError


def read_raw_folder(root: Path, front_end: FrontEnd | None) -> Parts:
    """Return the samples of a folder that `front_end`, by default one for their kind, prepares.

    Raises:
        DataError: as for `read_folder`; a text cannot be read; or `front_end` is for other samples.
    """
    kind = kind_of(root)
    default: FrontEnd = Sound() if kind is RECORDINGS else Text()
    front_end = front_end or default
    if type(front_end) is not type(default):
        raise DataError(f"Expected a folder of {front_end.subject}, got {default.subject} in {root}.")
    parts = read_folder(root, kind)
    pairs = {name: (paths if kind is RECORDINGS else _texts(paths), y) for name, (paths, y) in parts.pairs.items()}
    return replace(parts, pairs=pairs, files=False, front_end=front_end)


def _texts(paths: np.ndarray) -> np.ndarray:
    """Return the content of text files, strings as an object array (n,)."""
    return np.array([*map(_text, paths), None], object)[:-1]


def _text(path: Path) -> str:
    with reading(lambda why: DataError(f"Expected a text in UTF-8, got {path}: {why}; convert or remove it.")):
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size:,} bytes are over the limit of {LARGEST_JSON:,}")
        text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise DataError(f"Expected words in {path}, got an empty text; fill or remove it.")
    return text
