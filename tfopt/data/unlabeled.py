"""Samples without labels: enough for the ranges of a file, and to compare files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.progress import Progress
from tfopt.data.arrays import read_inputs_alone
from tfopt.data.arrays_by_name import count_samples, rows
from tfopt.data.beside import preprocessing_beside, raw_front_end_beside
from tfopt.data.check import check_pair
from tfopt.data.columns import is_table
from tfopt.data.dataset import Dataset
from tfopt.data.fitting import COLORS, for_shape
from tfopt.data.folder import IMAGES, loose_files
from tfopt.data.front_end import FrontEnd
from tfopt.data.images import convert_images, read_images
from tfopt.data.names import inputs_named_as, output_names
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.raw_folder import raw_samples
from tfopt.data.samples import Split, are_images
from tfopt.data.table import Table
from tfopt.data.tables import read_unlabeled
from tfopt.data.text import Text
from tfopt.tasks import Task
from tfopt.tasks.regression import Regression


@dataclass(frozen=True)
class _Found:
    """Stored inputs (n, ...), or several by name; what feeds them; and notes."""

    inputs: Any
    front_end: FrontEnd
    notes: tuple[str, ...] = ()


def unlabeled(
    model: Any,
    source: Any,
    *,
    preprocessing: str | None,
    limit: int | None,
    beside: Iterable[Any],
    held_out: float | None,
) -> Dataset | None:
    """Return inputs without labels as a data set, in random order; None for other data.

    Args:
        model: a Keras model or a `LiteModel`.
        source: the path of a .npz with x alone, or x/NAME for each of several inputs; of a folder of images, recordings
            or texts without class folders; or of a table without the column of labels that a `data.json` names.
        preprocessing: the name of that for images; None leaves it to a `data.json`.
        limit: the most samples.
        beside: paths of the model, its file or recipe, next to which a `data.json` may be.
        held_out: the share of the samples that is validation and test; None: all are in each part.

    Raises:
        DataError: the samples cannot be read, or do not fit the model.
    """
    if not isinstance(source, str | Path):
        return None
    path, places = Path(source), list(beside)
    found = _raw(path, limit, places) or _images_or_numbers(model, path, preprocessing, limit, places)
    return None if found is None else _in_parts(model, found, f"{source}, without labels", held_out)


def _in_parts(model: Any, found: _Found, source: str, held_out: float | None) -> Dataset:
    count = count_samples(found.inputs)
    held = count if held_out is None else round(held_out * count)
    train, rest = (slice(None), slice(None)) if held in (0, count) else (slice(held, None), slice(None, held))
    names, task = output_names(model), Regression("none", None)
    outputs: dict[str, Task] | None = dict.fromkeys(names, task) if len(names) > 1 else None
    labels: Any = np.zeros((count, 0), np.float32)
    labels = dict.fromkeys(names, labels) if outputs else labels
    all_samples = Split(found.inputs, labels, found.front_end)
    return Dataset(
        train=all_samples.at(train),
        validation=all_samples.at(rest),
        test=all_samples.at(rest),
        class_names=None,
        task=Regression.kind,
        labels="none",
        num_classes=None,
        source=source,
        notes=found.notes,
        outputs=outputs,
    )


def _drawn(samples: Any, limit: int | None) -> Any:
    """Return at most `limit` of the samples, in random order."""
    return rows(samples, np.random.default_rng(0).permutation(count_samples(samples))[:limit])


def _raw(path: Path, limit: int | None, places: list[Any]) -> _Found | None:
    """Return rows of a table, recordings or texts that have no labels; None for others."""
    stated, note = raw_front_end_beside(places)
    if path.is_file() and is_table(path):
        read = read_unlabeled(path, stated) if isinstance(stated, Table | Text) else None
        raw, notes = read or (None, ())
    else:
        kind, files = loose_files(path)
        raw, notes = None, ()
        if files and kind is not IMAGES:
            raw, stated = raw_samples(path, files, kind, stated)
    if raw is None or stated is None:
        return None
    drawn = _drawn(raw, limit)
    fitted, learned = stated.fitted(drawn)
    note = note or f"{fitted.describe()}, from these data: no data.json beside the model says otherwise"
    Progress().say(f"note: {note}")
    return _Found(fitted.stored(drawn), fitted, (*notes, *learned, *fitted.notes([drawn]), note))


def _images_or_numbers(
    model: Any, path: Path, preprocessing: str | None, limit: int | None, places: list[Any]
) -> _Found | None:
    """Return the images of a folder, or the inputs in a .npz; None for others."""
    if path.suffix == ".npz":
        inputs = read_inputs_alone(path)
        if inputs is None:
            return None
        check_pair(str(path), inputs, np.zeros(count_samples(inputs)))
        chosen = inputs_named_as(model, _drawn(inputs, limit))
    else:
        chosen = _folder_of_images(model, path, limit)
        if chosen is None:
            return None
    fed = Preprocessing.named(preprocessing or "raw")
    if are_images(chosen):
        fed, note = preprocessing_beside(fed, places, asked=preprocessing is not None)
        if note:
            Progress().say(f"note: {note}")
    if isinstance(chosen, dict):
        return _Found(chosen, fed)
    wanted = for_shape(chosen, fed, tuple(model.inputs[0].shape)[1:])
    chosen = convert_images(chosen, wanted, str(path)) if wanted else chosen
    if are_images(chosen):
        height, width, channels = (int(size) for size in chosen.shape[1:])
        fed = replace(fed, size=(height, width), color=COLORS.get(channels))
    return _Found(chosen, fed)


def _folder_of_images(model: Any, path: Path, limit: int | None) -> Any:
    """Return the pixels of at most `limit` images in the size and colors of `model`; None for another folder."""
    kind, files = loose_files(path)
    shape = tuple(model.inputs[0].shape)[1:]
    if not files or kind is not IMAGES or len(shape) != 3:
        return None
    drawn = list(_drawn(np.array(files, object), limit))
    size = (int(shape[0]), int(shape[1])) if shape[0] and shape[1] else None
    pixels, _, _ = read_images(drawn, Preprocessing(size=size, color=COLORS.get(shape[2])), str(path))
    return pixels
