"""The preprocessing that a `data.json` next to a model, a file or a recipe states: what it was trained with."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.reading import parse_json, reading
from tfopt.data.dataset import Dataset
from tfopt.data.preprocessing import Preprocessing
from tfopt.errors import DataError


def stated_beside(path: Any) -> Preprocessing | None:
    """Return the preprocessing in the `data.json` next to a file, or in a folder; None if there is none.

    Anything but a path has none.

    Raises:
        DataError: the file cannot be read.
    """
    place = Path(path) if isinstance(path, str | Path) else None
    file = None if place is None else (place if place.is_dir() else place.parent) / "data.json"
    if file is None or not file.is_file():
        return None
    try:
        with reading(lambda why: DataError(f"{why}.")):
            stored = parse_json(file.read_text(encoding="utf-8"))
            stated = stored.get("preprocessing") if isinstance(stored, dict) else None
            return None if stated is None else Preprocessing.from_dict(stated)
    except DataError as error:
        raise DataError(f"{file} states no preprocessing that can be read; correct or remove it. {error}") from error


def fed_as(data: Dataset, stated: Preprocessing) -> Dataset:
    """Return `data` fed as `stated`, in its own size and color."""
    preprocessing = dataclasses.replace(stated, size=data.preprocessing.size, color=data.preprocessing.color)
    train, validation, test = (
        dataclasses.replace(part, preprocessing=preprocessing) for part in (data.train, data.validation, data.test)
    )
    return dataclasses.replace(data, train=train, validation=validation, test=test)


def fed_as_beside(data: Dataset, places: Iterable[Any], *, asked: bool) -> tuple[Dataset, str]:
    """Return images fed as a `data.json` beside one of `places` states, and a note, "" if there is nothing to say.

    Args:
        data: other data than 8-bit images is unchanged.
        places: paths of models, files and recipes; the first that has a `data.json` counts.
        asked: whether the caller has chosen the preprocessing, which then stays: the note only tells.
    """
    if data.train.inputs.dtype != np.uint8 or len(data.input_shape) != 3:
        return data, ""
    for place in places:
        if (stated := stated_beside(place)) is None:
            continue
        fed = fed_as(data, stated)
        if fed.preprocessing == data.preprocessing:
            return data, ""
        if asked:
            own = data.preprocessing.describe()
            return data, f"{own}, as asked; data.json beside {place} says otherwise: {fed.preprocessing.describe()}"
        return fed, f"{fed.preprocessing.describe()}, as data.json beside {place} says"
    return data, ""
