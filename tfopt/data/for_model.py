"""Data in the form that a model expects."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tfopt.base.annotations import annotations
from tfopt.base.progress import Listener, Progress
from tfopt.base.renamed import renamed_arguments
from tfopt.data import Dataset, Preprocessing, load_data
from tfopt.data.arrays import is_npz
from tfopt.data.beside import fed_as_beside, is_raw_front_end, mask_values_beside, raw_front_end_for
from tfopt.data.check import check_front_end, fit_inputs, require_numbers
from tfopt.data.fitting import COLORS, fitted_to
from tfopt.data.folder import holds_masks
from tfopt.data.front_end import FrontEnd
from tfopt.data.ids import check_ids
from tfopt.data.names import named_as
from tfopt.data.sources import (
    TABLE,
    has_columns,
    has_images_to_decode,
    holds_raw_arrays,
    path_of,
    raw_kind,
    shadowed_note,
)
from tfopt.data.stated_series import series_beside, stated_windows
from tfopt.data.unlabeled import unlabeled
from tfopt.tasks import Forecasting

HELD_OUT = 0.2
"""The share of samples without labels on which a file is proven, not calibrated."""


@renamed_arguments(preprocess="preprocessing")
def data_for(
    model: Any,
    source: Any,
    *,
    preprocessing: str | FrontEnd | None = None,
    limit: int | None = None,
    input_shape: Sequence[int] | None = None,
    beside: Iterable[Any] = (),
    text: str | None = None,
    labels: str | None = None,
    task: str | None = None,
    mask_values: Sequence[int] | None = None,
    quiet: bool = False,
    listeners: Sequence[Listener] = (),
) -> Dataset:
    """Return `load_data(source)` with images converted to the size and colors that `model` expects.

    Without `preprocessing`, samples are fed as a `data.json` beside the model says, if there is one; it also says which
    values of masks are which classes, and which windows of a series in a table a model that forecasts takes.

    Args:
        model: a Keras model or a `LiteModel`.
        source: as for `load_data`.
        preprocessing: as for `load_data`: a name ("raw", "unit", "symmetric", "caffe", "torch"), or a front end, such
            as a `Text`.
        limit: the most samples in each part.
        input_shape: overrides the model's input shape.
        beside: paths of the model, its file or recipe, next to which a `data.json` may be.
        text: the column of texts, as for `load_data`.
        labels: the column of labels, as for `load_data`.
        task: what the labels mean, as for `load_data`.
        mask_values: the values of masks by class, as for `load_data`; None: also what a `data.json` says.
        quiet: do not print what a `data.json` has to say; it is in the notes of the result in any case.
        listeners: get the note as an event.

    Raises:
        DataError: as `load_data`; or numbers without a row in a table in which the model looks them up.
        ModelError: the model takes strings.
    """
    require_numbers(model)
    options: dict[str, Any] = {"limit": limit, "text": text, "labels": labels, "task": task}
    options["mask_values"] = mask_values
    own, places = annotations(model), list(beside)
    if isinstance(source, Dataset):
        check_front_end(source, own.preprocessing)
        return _with_known_ids(named_as(model, load_data(source, preprocessing=preprocessing, **options)), model)
    if own.preprocessing:
        places.insert(0, own)
    if mask_values is None and (path := path_of(source)) and path.is_dir() and holds_masks(path):
        options["mask_values"] = mask_values_beside(places)
    asked = text or labels or is_raw_front_end(preprocessing) or task not in (None, Forecasting.kind)
    series, said = (None, "") if asked or raw_kind(source) != TABLE else series_beside(places)
    stated, note = raw_front_end_for(places, preprocessing)
    is_raw = has_columns(source) or holds_raw_arrays(source)
    if series:
        data, note = stated_windows(Path(source), series, limit), said
    elif is_raw_front_end(preprocessing) or raw_kind(source) or own.preprocessing or (stated and is_raw):
        data = load_data(source, preprocessing=stated or preprocessing, **options)
        check_front_end(data, own.preprocessing)
        note = note or f"{data.preprocessing.describe()}, from these data: no data.json beside the model says otherwise"
    else:
        data = named_as(model, _loaded(model, source, preprocessing, input_shape, options))
        data, note = fed_as_beside(data, places, asked=preprocessing is not None)
    for said in filter(None, (shadowed_note(source), note)):
        Progress(quiet=quiet, listeners=listeners).say(f"note: {said}")
    if note:
        data = dataclasses.replace(data, notes=(*data.notes, note))
    return _with_known_ids(data, model)


def _with_known_ids(data: Dataset, model: Any) -> Dataset:
    check_ids(data, model)
    return data


def _loaded(
    model: Any,
    source: Any,
    preprocessing: str | FrontEnd | None,
    input_shape: Sequence[int] | None,
    options: dict[str, Any],
) -> Dataset:
    shape = tuple(input_shape or tuple(model.inputs[0].shape)[1:])
    if not has_images_to_decode(source) or len(shape) != 3:
        named = Preprocessing.of(preprocessing) if preprocessing else None
        data = load_data(source, preprocessing=named, **options)
        return fitted_to(data, shape) if is_npz(source) else data
    size = (shape[0], shape[1]) if shape[0] and shape[1] else None
    color = COLORS.get(shape[2])
    named = Preprocessing.of(preprocessing)
    return load_data(source, preprocessing=named, size=size, color=color, **options)


def with_or_without_labels(
    model: Any,
    source: Any,
    *,
    held_out: float | None = HELD_OUT,
    preprocessing: str | FrontEnd | None = None,
    limit: int | None = None,
    input_shape: Sequence[int] | None = None,
    beside: Iterable[Any] = (),
    quiet: bool = False,
    listeners: Sequence[Listener] = (),
    **labels: Any,
) -> Dataset:
    """Return what `data_for` does, or inputs that have no labels.

    Args:
        model: a Keras model or a `LiteModel`.
        source: as for `data_for`; or samples without labels, as for `unlabeled`.
        held_out: as for `unlabeled`.
        preprocessing: as for `data_for`, like all that follow.
        limit: the most samples in each part.
        input_shape: overrides the model's input shape.
        beside: paths near which a `data.json` may be.
        quiet: do not print what a `data.json` has to say.
        listeners: get the note as an event.
        **labels: `text`, `labels`, `task` or `mask_values`; samples for which one is given have labels.

    Raises:
        DataError: as `data_for` or `unlabeled`.
        ModelError: the model takes strings.
    """
    require_numbers(model)
    given: dict[str, Any] = {
        "preprocessing": preprocessing,
        "limit": limit,
        "input_shape": input_shape,
        "beside": [annotations(model), *beside],
    }
    progress = Progress(quiet=quiet, listeners=listeners)
    data = None if any(labels.values()) else unlabeled(model, source, held_out=held_out, progress=progress, **given)
    if data is None:
        return data_for(model, source, quiet=quiet, listeners=listeners, **given, **labels)
    return _with_known_ids(data, model)


def representative_for(model: Any, source: Any, **how: Any) -> tuple[Dataset, str]:
    """Return samples for the ranges of a file, as `with_or_without_labels` does, and how they are fed."""
    data = with_or_without_labels(model, source, **how)
    return data, data.preprocessing.describe()


def measurable(model: Any, source: Any, **how: Any) -> Dataset:
    """Return the samples on which files are compared: all of those without labels are for tests.

    Raises:
        DataError: as `data_for`; or the inputs have other shapes than those of `model`.
    """
    data = with_or_without_labels(model, source, held_out=None, **how)
    fit_inputs(data, model)
    return data
