"""Samples without labels: enough for the ranges of a file, and to compare files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.progress import Progress
from tfopt.data.arrays import is_npz, read_inputs_alone
from tfopt.data.arrays_by_name import count_samples, leaves, rows
from tfopt.data.beside import is_raw_front_end, preprocessing_beside, raw_front_end_for
from tfopt.data.check import check_narrow_inputs, check_pair
from tfopt.data.dataset import Dataset
from tfopt.data.fitting import COLORS, for_shape
from tfopt.data.folder import IMAGES, loose_files
from tfopt.data.front_end import FrontEnd
from tfopt.data.image_files import read_images
from tfopt.data.images import convert_images
from tfopt.data.names import inputs_named_as, output_names
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.raw_folder import raw_samples
from tfopt.data.samples import Split, are_images
from tfopt.data.sources import holds_raw_arrays, path_of
from tfopt.data.stored import take
from tfopt.data.table import Table
from tfopt.data.table_files import table_files
from tfopt.data.tables import read_unlabeled
from tfopt.data.text import Text, as_strings
from tfopt.tasks import Task
from tfopt.tasks.regression import Regression


@dataclass(frozen=True)
class _Found:
    """Stored inputs (n, ...), or several by name; what feeds them; a note on that, or ""; and other notes."""

    inputs: Any
    front_end: FrontEnd
    fed: str = ""
    notes: tuple[str, ...] = ()


def unlabeled(
    model: Any,
    source: Any,
    *,
    preprocessing: str | FrontEnd | None,
    limit: int | None,
    input_shape: Sequence[int] | None,
    beside: Iterable[Any],
    held_out: float | None,
    progress: Progress,
) -> Dataset | None:
    """Return inputs without labels as a data set, in random order; None for other data.

    Args:
        model: a Keras model or a `LiteModel`.
        source: an array, or a dict with one for each of several inputs; the path of a .npz with x alone, or x/NAME for
            each of them; of a folder of images, recordings or texts without class folders; or of a table without the
            column of labels that a `data.json` names.
        preprocessing: as for `load_data`; None leaves it to a `data.json`.
        limit: the most samples.
        input_shape: overrides the model's input shape.
        beside: paths of the model, its file or recipe, next to which a `data.json` may be.
        held_out: the share of the samples that is validation and test; None: all are in each part.
        progress: prints what a `data.json` has to say; it is in the notes of the result in any case.

    Raises:
        DataError: the samples cannot be read, or do not fit the model.
    """
    if isinstance(source, Dataset):
        return None
    path, places = path_of(source), list(beside)
    if path is None and isinstance(source, str):
        return None
    found = _raw(path or source, limit, places, preprocessing)
    if found is None:
        shape = tuple(input_shape or tuple(model.inputs[0].shape)[1:])
        found = _images_or_numbers(model, source, shape, preprocessing, limit, places)
    if found is None:
        return None
    if found.fed:
        progress.say(f"note: {found.fed}")
    return _in_parts(model, found, f"{_named(source)}, without labels", held_out)


def _named(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "arrays"


def _in_parts(model: Any, found: _Found, source: str, held_out: float | None) -> Dataset:
    count = count_samples(found.inputs)
    names, task = output_names(model), Regression("none", None)
    outputs: dict[str, Task] | None = dict.fromkeys(names, task) if len(names) > 1 else None
    labels: Any = np.zeros((count, 0), np.float32)
    labels = dict.fromkeys(names, labels) if outputs else labels
    train = rest = Split(found.inputs, labels, found.front_end)
    held = count if held_out is None else round(held_out * count)
    if 0 < held < count:
        train, rest = (
            replace(train, inputs=take(train.inputs, places), labels=take(labels, places))
            for places in (np.arange(held, count), np.arange(held))
        )
    return Dataset(
        train=train,
        validation=rest,
        test=rest,
        class_names=None,
        task=Regression.kind,
        labels="none",
        num_classes=None,
        source=source,
        notes=(*found.notes, *([found.fed] if found.fed else [])),
        outputs=outputs,
    )


def _drawn(samples: Any, limit: int | None) -> Any:
    """Return at most `limit` of the samples, in random order."""
    return rows(samples, np.random.default_rng(0).permutation(count_samples(samples))[:limit])


def _raw(source: Any, limit: int | None, places: list[Any], asked: str | FrontEnd | None) -> _Found | None:
    """Return rows of a table, recordings or texts that have no labels; None for others."""
    stated, note = raw_front_end_for(places, asked)
    raw: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    if not isinstance(source, Path) or is_npz(source):
        if is_raw_front_end(asked) or (stated and holds_raw_arrays(source)):
            raw = _raw_array(source)
    elif table := table_files(source):
        read = read_unlabeled(table, stated) if isinstance(stated, Table | Text) else None
        raw, notes = read or (None, ())
    else:
        kind, files = loose_files(source)
        if files and kind is not IMAGES:
            raw, stated = raw_samples(source, files, kind, stated)
    if raw is None or stated is None:
        return None
    drawn = _drawn(raw, limit)
    fitted, learned = stated.fitted(drawn)
    note = note or f"{fitted.describe()}, from these data: no data.json beside the model says otherwise"
    return _Found(fitted.stored(drawn), fitted, note, (*notes, *learned, *fitted.notes([drawn])))


def _raw_array(source: Any) -> np.ndarray | None:
    """Return raw samples (n, ...) in an array or in a .npz with x alone; None for another source."""
    inputs = read_inputs_alone(source) if isinstance(source, Path) else source
    return as_strings("inputs", inputs) if isinstance(inputs, np.ndarray) and inputs.ndim else None


def _images_or_numbers(
    model: Any,
    source: Any,
    shape: tuple[int | None, ...],
    preprocessing: str | FrontEnd | None,
    limit: int | None,
    places: list[Any],
) -> _Found | None:
    """Return the images of a folder, or the inputs in arrays or a .npz; None for others."""
    if isinstance(source, str | Path) and not is_npz(source):
        chosen = _folder_of_images(Path(source), shape, limit)
    else:
        chosen = _arrays(model, source, limit)
    if chosen is None:
        return None
    fed, note = Preprocessing.of(preprocessing), ""
    if are_images(chosen):
        fed, note = preprocessing_beside(fed, places, asked=preprocessing is not None)
    if isinstance(chosen, dict):
        return _Found(chosen, fed)
    wanted = for_shape(chosen, fed, shape)
    chosen = convert_images(chosen, wanted, _named(source)) if wanted else chosen
    if are_images(chosen):
        height, width, channels = (int(size) for size in chosen.shape[1:])
        fed = replace(fed, size=(height, width), color=COLORS.get(channels))
    return _Found(chosen, fed, note)


def _arrays(model: Any, source: Any, limit: int | None) -> Any:
    """Return at most `limit` samples of an array, of a dict of arrays or of a .npz, named as in `model`; else None."""
    inputs: Any = read_inputs_alone(Path(source)) if isinstance(source, str | Path) else source
    arrays = leaves(inputs)
    if not arrays or not all(isinstance(array, np.ndarray) and array.ndim for array in arrays):
        return None
    check_pair(_named(source), inputs, np.zeros(count_samples(inputs)))
    check_narrow_inputs([inputs])
    return inputs_named_as(model, _drawn(inputs, limit))


def _folder_of_images(path: Path, shape: tuple[int | None, ...], limit: int | None) -> Any:
    """Return the pixels of at most `limit` images in the size and colors of `shape`; None for another folder."""
    kind, files = loose_files(path)
    if not files or kind is not IMAGES or len(shape) != 3:
        return None
    drawn = list(_drawn(np.array(files, object), limit))
    size = (int(shape[0]), int(shape[1])) if shape[0] and shape[1] else None
    pixels, _, _ = read_images(drawn, Preprocessing(size=size, color=COLORS.get(shape[2])), str(path))
    return pixels
