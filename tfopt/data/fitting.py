"""Images in the size and colors that a model expects."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tfopt.data.beside import image_preprocessing
from tfopt.data.dataset import Dataset
from tfopt.data.images import convert_images
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import Split
from tfopt.data.split import NAMES

COLORS: dict[int | None, Literal["rgb", "grayscale"]] = {1: "grayscale", 3: "rgb"}
"""By the number of channels."""


def fitted_to(data: Dataset, shape: tuple[int | None, ...]) -> Dataset:
    """Return uint8 images of `data` in the size and colors of `shape`; other inputs unchanged."""
    own = image_preprocessing(data)
    preprocessing = for_shape(data.train.inputs, own, shape) if own else None
    if preprocessing is None:
        return data
    splits: dict[str, Any] = {name: _converted_split(data.split(name), preprocessing, name) for name in NAMES}
    made = splits["train"].inputs.shape[1:]
    note = f"images of {data.input_shape} converted to {made}, as the model expects"
    return replace(data, **splits, notes=(*data.notes, note))


def for_shape(inputs: np.ndarray, preprocessing: Preprocessing, shape: tuple[int | None, ...]) -> Preprocessing | None:
    """Return `preprocessing` with the size and colors of `shape`; None for inputs that need or allow no conversion."""
    given = inputs.shape[1:]
    is_image = inputs.dtype == np.uint8 and len(given) == len(shape) == 3 and given[-1] in (1, 3)
    color = COLORS.get(shape[-1]) if is_image else None
    if color is None:
        return None
    size = (shape[0] or given[0], shape[1] or given[1])
    if (*size, shape[-1]) == given:
        return None
    return replace(preprocessing, size=size, color=color)


def _converted_split(split: Split, preprocessing: Preprocessing, name: str) -> Split:
    return replace(split, inputs=convert_images(split.inputs, preprocessing, name), preprocessing=preprocessing)
