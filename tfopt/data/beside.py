"""The preprocessing (front end) that a `data.json` next to a model, a file or a recipe states: its training's."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np

from tfopt.base.annotations import Annotations
from tfopt.base.limits import LARGEST_JSON
from tfopt.base.reading import parse_json, reading
from tfopt.data.dataset import Dataset
from tfopt.data.front_end import FrontEnd, ReadFile
from tfopt.data.front_ends import front_end_from
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import are_images
from tfopt.errors import DataError
from tfopt.tasks.mask_values import checked_values

_Made = TypeVar("_Made")


def stated_beside(path: Any) -> FrontEnd | None:
    """Return the preprocessing in the `data.json` next to a file, or in a folder; None if there is none.

    A file that says it itself is asked with its attribute `preprocessing`. A `data.json` of somebody else states
    nothing, whatever it holds.

    Raises:
        DataError: the statement cannot be read.
    """
    if not isinstance(path, str | Path):
        own = getattr(path, "preprocessing", None)
        return own if isinstance(own, FrontEnd) else None
    return read_beside(path, "preprocessing", _front_end)


def mask_values_beside(places: Iterable[Any]) -> tuple[int, ...] | None:
    """Return the values of masks by class that the first `data.json` beside `places` states; None if none does.

    Args:
        places: paths of models, files and recipes; other objects state none.

    Raises:
        DataError: the statement cannot be read.
    """
    paths = (place for place in places if isinstance(place, str | Path))
    found = (read_beside(path, "mask_values", _mask_values) for path in paths)
    return next((values for values in found if values is not None), None)


def _front_end(stated: Any, folder: Path) -> FrontEnd | None:
    return front_end_from(stated, files_of(folder)) if isinstance(stated, dict) else None


def _mask_values(stated: Any, folder: Path) -> tuple[int, ...]:
    del folder
    return checked_values(stated)


def read_beside(path: str | Path, key: str, make: Callable[[Any, Path], _Made | None]) -> _Made | None:
    """Return what `make` makes of a statement in a `data.json` and its folder; None if there is none."""
    file = Path(path)
    try:
        with reading(lambda why: DataError(f"{why}.")):
            file = (file if file.is_dir() else file.parent) / "data.json"
            if not file.is_file() or file.stat().st_size > LARGEST_JSON:
                return None
            if f'"{key}"'.encode() not in (text := file.read_bytes()):
                return None
            stored = parse_json(text)
            stated = stored.get(key) if isinstance(stored, dict) else None
            return None if stated is None else make(stated, file.parent)
    except DataError as error:
        raise DataError(f"{file} states no {key} that can be read; correct or remove it. {error}") from error


def files_of(folder: Path) -> ReadFile:
    """Return a function that reads a file of `folder`, by a name without a path."""

    def read(name: str) -> bytes:
        file = folder / name
        if not file.is_file():
            raise DataError(f"Expected {name} beside it, which is missing; copy it from the result.")
        if file.stat().st_size > LARGEST_JSON:
            raise DataError(f"Expected {name} of at most {LARGEST_JSON:,} bytes, got {file.stat().st_size:,}.")
        return file.read_bytes()

    return read


def fed_as(data: Dataset, stated: Preprocessing) -> Dataset:
    """Return images `data` fed as `stated`, in their own size and color."""
    own = image_preprocessing(data) or Preprocessing()
    preprocessing = dataclasses.replace(stated, size=own.size, color=own.color)
    train, validation, test = (
        dataclasses.replace(part, preprocessing=preprocessing) for part in (data.train, data.validation, data.test)
    )
    return dataclasses.replace(data, train=train, validation=validation, test=test)


def fed_as_beside(data: Dataset, places: Iterable[Any], *, asked: bool) -> tuple[Dataset, str]:
    """Return images fed as a `data.json` beside one of `places` states, and a note, "" if there is nothing to say.

    Args:
        data: other data than 8-bit images is unchanged.
        places: paths of models, files and recipes, or files that say it themselves; the first that says it counts.
        asked: whether the caller has chosen the preprocessing, which then stays: the note only tells.
    """
    own = image_preprocessing(data)
    if own is None:
        return data, ""
    stated, note = preprocessing_beside(own, places, asked=asked)
    return (data if stated == own else fed_as(data, stated)), note


def image_preprocessing(data: Dataset) -> Preprocessing | None:
    """Return how 8-bit images are fed; None for other data."""
    own = data.preprocessing
    return own if isinstance(own, Preprocessing) and are_images(data.train.inputs) else None


def raw_front_end_beside(places: Iterable[Any]) -> tuple[FrontEnd | None, str]:
    """Return the first front end of other samples than images that is stated beside `places`, and a note on it."""
    for place in places:
        stated = stated_beside(place)
        if stated is not None and not isinstance(stated, Preprocessing):
            return stated, f"{stated.describe()}, as {_source(place)} says"
    return None, ""


def is_raw_front_end(preprocessing: Any) -> TypeGuard[FrontEnd]:
    """Return whether a preprocessing is one of other samples than images."""
    return isinstance(preprocessing, FrontEnd) and not isinstance(preprocessing, Preprocessing)


def raw_front_end_for(places: Iterable[Any], asked: str | FrontEnd | None) -> tuple[FrontEnd | None, str]:
    """Return the front end of other samples than images that is asked for, or that is stated, and a note on it.

    Args:
        places: paths of models, files and recipes, or files that say it themselves; the first that says it counts.
        asked: what the caller has chosen; the name or the preprocessing of images leaves it to what is stated.
    """
    stated, note = raw_front_end_beside(places)
    if not is_raw_front_end(asked):
        return stated, note
    differs = stated is not None and stated.to_dict() != asked.to_dict()
    return asked, f"{asked.subject} are fed as asked{f', instead of as {note}' if differs else ''}"


def preprocessing_beside(own: Preprocessing, places: Iterable[Any], *, asked: bool) -> tuple[Preprocessing, str]:
    """Return what `fed_as_beside` feeds images with, instead of `own`, and its note."""
    found = [
        (place, dataclasses.replace(stated, size=own.size, color=own.color))
        for place in places
        if isinstance(stated := stated_beside(place), Preprocessing)
    ]
    if not found:
        return own, ""
    first, fed = (None, own) if asked else found[0]
    others = [(place, stated) for place, stated in found if not _is_same(stated, fed)]
    if fed == own and not others:
        return own, ""
    said = [f"{fed.describe()}, as {'asked' if asked else f'{_source(first)} says'}"]
    return fed, "; ".join(said + [f"{_source(place)} says otherwise: {it.describe()}" for place, it in others])


def _is_same(one: Preprocessing, other: Preprocessing) -> bool:
    """Return whether two feed alike, up to the rounding of float32, in which a file states it."""
    if (one.order, one.size, one.color) != (other.order, other.size, other.color):
        return False
    pairs = ((one.scale, other.scale), (one.offset, other.offset))
    return all(np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-6, atol=0) for a, b in pairs)


def _source(place: Any) -> str:
    if isinstance(place, str | Path):
        return f"data.json beside {place}"
    if isinstance(place, Annotations):
        return "the model's own layer"
    return "the recipe" if hasattr(place, "stages") else "the file itself"
