"""The inputs of the chosen samples, by split: decoded, converted, or made by a front end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfopt.data.arrays_by_name import Arrays, map_arrays
from tfopt.data.front_end import FrontEnd
from tfopt.data.image_files import read_images
from tfopt.data.images import convert_images
from tfopt.data.kept_images import read_kept_images
from tfopt.data.parts import Parts
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import are_images
from tfopt.data.split import NAMES, Plan
from tfopt.data.stored import rows_at, take
from tfopt.errors import DataError


def chosen_inputs(
    parts: Parts, chosen: Plan, preprocessing: FrontEnd, cache: Path | Literal[False] | None
) -> tuple[dict[str, np.ndarray], FrontEnd, tuple[str, ...]]:
    """Return the chosen samples by split; only these are decoded, all at once, so that size and color agree.

    Args:
        parts: that are read.
        chosen: the samples of each split.
        preprocessing: as asked; of images.
        cache: as for `load_data`.

    Returns:
        The inputs as they are stored, by split; the front end, with what it has learned; and notes.

    Raises:
        DataError: images cannot be read or converted, or samples for a front end are no single array.
    """
    picked = {name: take(parts.pairs[origin][0], indices) for name, (origin, indices) in chosen.items()}
    if parts.front_end:
        if isinstance(picked["train"], dict):
            raise DataError(
                f"Expected {parts.front_end.subject} as one array, got {', '.join(picked['train'])} by name; give the "
                "array alone."
            )
        fitted, notes = parts.front_end.fitted(picked["train"])
        stored = {name: fitted.stored(raw) for name, raw in picked.items()}
        return stored, fitted, (*notes, *fitted.notes([picked[name] for name in NAMES]))
    assert isinstance(preprocessing, Preprocessing)
    if not parts.files:
        converted = {name: _converted(x, preprocessing, name) for name, x in picked.items()}
        return converted, _with_shape(preprocessing, converted["train"]), ()
    files = np.concatenate([picked[name] for name in NAMES])
    read = (
        partial(read_kept_images, folder=cache)
        if cache
        else partial(read_images, again=True if cache is False else None)
    )
    pixels, preprocessing, notes = read(list(files), preprocessing, parts.source)
    ends = np.cumsum([0, *(len(picked[name]) for name in NAMES)])
    places = [slice(first, last) for first, last in itertools.pairwise(ends)]
    splits = {name: rows_at(pixels, each) for name, each in zip(NAMES, places, strict=True)}
    return splits, preprocessing, notes


def _converted(inputs: Arrays, preprocessing: Preprocessing, name: str) -> Any:
    """Return the inputs in the size and color of `preprocessing`; of several, the images."""
    if not isinstance(inputs, dict):
        return convert_images(_narrow(inputs), preprocessing, name)
    return map_arrays(lambda x: convert_images(x, preprocessing, name) if are_images(x) else _narrow(x), inputs)


def _with_shape(preprocessing: Preprocessing, inputs: Any) -> Preprocessing:
    """Record the size of uint8 images, which new images need; only the caller knows if 3 channels are RGB."""
    if isinstance(inputs, dict) or inputs.dtype != np.uint8 or inputs.ndim != 4 or inputs.shape[-1] not in (1, 3):
        return preprocessing
    height, width, channels = inputs.shape[1:]
    return replace(preprocessing, size=(height, width), color="grayscale" if channels == 1 else preprocessing.color)


def _narrow(inputs: np.ndarray) -> np.ndarray:
    """Convert float64 to float32: models receive float32, and float64 would take twice the memory."""
    wide = isinstance(inputs, np.ndarray) and inputs.dtype == np.float64
    return inputs.astype(np.float32) if wide else inputs
