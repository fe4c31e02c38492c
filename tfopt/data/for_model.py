"""Data in the form that a model expects."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfopt.base.progress import Progress
from tfopt.base.renamed import renamed_arguments
from tfopt.data import Dataset, Preprocessing, load_data
from tfopt.data.arrays import read_inputs_alone
from tfopt.data.beside import fed_as_beside, image_preprocessing, preprocessing_beside, raw_front_end_beside
from tfopt.data.check import check_inputs
from tfopt.data.folder import loose_images
from tfopt.data.images import convert_images, read_images
from tfopt.data.load import is_raw
from tfopt.data.names import named_as
from tfopt.data.samples import Split, are_images
from tfopt.data.split import NAMES
from tfopt.tasks.regression import Regression

HELD_OUT = 0.2
"""The share of samples without labels on which a file is proven, not calibrated."""
_COLORS: dict[int | None, Literal["rgb", "grayscale"]] = {1: "grayscale", 3: "rgb"}


@renamed_arguments(preprocess="preprocessing")
def data_for(
    model: Any,
    source: Any,
    *,
    preprocessing: str | None = None,
    limit: int | None = None,
    input_shape: Sequence[int] | None = None,
    beside: Iterable[Any] = (),
    text: str | None = None,
    labels: str | None = None,
    task: str | None = None,
    quiet: bool = False,
) -> Dataset:
    """Return `load_data(source)` with images converted to the size and colors that `model` expects.

    Without `preprocessing`, samples are fed as a `data.json` beside the model says, if there is one.

    Args:
        model: a Keras model or a `LiteModel`.
        source: as for `load_data`.
        preprocessing: the name of a `Preprocessing` ("raw", "unit", "symmetric").
        limit: the most samples in each part.
        input_shape: overrides the model's input shape.
        beside: paths of the model, its file or recipe, next to which a `data.json` may be.
        text: the column of texts, as for `load_data`.
        labels: the column of labels, as for `load_data`.
        task: what the labels mean, as for `load_data`.
        quiet: do not print what a `data.json` has to say; it is in the notes of the result in any case.
    """
    if isinstance(source, Dataset):
        return named_as(model, source)
    places = list(beside)
    if is_raw(source):
        stated, note = raw_front_end_beside(places)
        data = load_data(
            source, preprocessing=stated or preprocessing, limit=limit, text=text, labels=labels, task=task
        )
        note = note or f"{data.preprocessing.describe()}, from these data: no data.json beside the model says otherwise"
    else:
        data = named_as(model, _loaded(model, source, preprocessing, limit, input_shape, task))
        data, note = fed_as_beside(data, places, asked=preprocessing is not None)
    if not note:
        return data
    Progress(quiet=quiet).say(f"note: {note}")
    return dataclasses.replace(data, notes=(*data.notes, note))


def _loaded(
    model: Any,
    source: Any,
    preprocessing: str | None,
    limit: int | None,
    input_shape: Sequence[int] | None,
    task: str | None,
) -> Dataset:
    shape = tuple(input_shape or tuple(model.inputs[0].shape)[1:])
    is_path = isinstance(source, str | Path)
    is_folder = is_path and Path(source).is_dir()
    if not is_folder or len(shape) != 3:
        named = Preprocessing.named(preprocessing) if preprocessing else None
        data = load_data(source, preprocessing=named, limit=limit, task=task)
        return _converted(data, shape) if is_path and Path(source).suffix == ".npz" else data
    size = (shape[0], shape[1]) if shape[0] and shape[1] else None
    color = _COLORS.get(shape[2])
    named = Preprocessing.named(preprocessing or "raw")
    return load_data(source, preprocessing=named, size=size, color=color, limit=limit, task=task)


def representative_for(
    model: Any,
    source: Any,
    *,
    preprocessing: str | None = None,
    limit: int | None = None,
    beside: Iterable[Any] = (),
) -> tuple[Dataset, str]:
    """Return samples for the ranges of a file: what `data_for` does, or inputs that have no labels.

    Args:
        model: a Keras model.
        source: as for `data_for`; or a .npz with x alone, or a folder of images without class folders.
        preprocessing: as for `data_for`.
        limit: the most samples in each part.
        beside: as for `data_for`.

    Returns:
        The data set, and how its inputs are fed.
    """
    data = unlabeled(model, source, preprocessing=preprocessing, limit=limit, beside=beside, held_out=HELD_OUT)
    data = data or data_for(model, source, preprocessing=preprocessing, limit=limit, beside=beside)
    return data, data.preprocessing.describe()


def measurable(
    model: Any,
    source: Any,
    *,
    preprocessing: str | None = None,
    limit: int | None = None,
    beside: Iterable[Any] = (),
) -> Dataset:
    """Return the samples on which files are compared: as `representative_for`, but all without labels are for tests."""
    data = unlabeled(model, source, preprocessing=preprocessing, limit=limit, beside=beside, held_out=None)
    return data or data_for(model, source, preprocessing=preprocessing, limit=limit, beside=beside)


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
        model: as for `data_for`, like `source`, `preprocessing`, `limit` and `beside`.
        source: a .npz with x alone, or a folder of images without class folders.
        preprocessing: its name; None leaves it to a `data.json`.
        limit: the most samples.
        beside: paths.
        held_out: the share of the samples that is validation and test; None: all are in each part.
    """
    inputs = _inputs_alone(Path(source), model, limit) if isinstance(source, str | Path) else None
    if inputs is None:
        return None
    check_inputs(str(source), inputs)
    chosen = inputs[np.random.default_rng(0).permutation(len(inputs))[:limit]]
    fed = Preprocessing.named(preprocessing or "raw")
    if are_images(chosen):
        fed, note = preprocessing_beside(fed, beside, asked=preprocessing is not None)
        if note:
            Progress().say(f"note: {note}")
    wanted = _for_shape(chosen, fed, tuple(model.inputs[0].shape)[1:])
    chosen = convert_images(chosen, wanted, str(source)) if wanted else chosen
    if are_images(chosen):
        height, width, channels = (int(size) for size in chosen.shape[1:])
        fed = dataclasses.replace(fed, size=(height, width), color=_COLORS.get(channels))
    count = len(chosen) if held_out is None else round(held_out * len(chosen))
    train, rest = (chosen, chosen) if count in (0, len(chosen)) else (chosen[count:], chosen[:count])
    parts = [Split(each, np.zeros((len(each), 0), np.float32), fed) for each in (train, rest)]
    return Dataset(
        train=parts[0],
        validation=parts[1],
        test=parts[1],
        class_names=None,
        task=Regression.kind,
        labels="none",
        num_classes=None,
        source=f"{source}, without labels",
    )


def _inputs_alone(path: Path, model: Any, limit: int | None) -> Any:
    """Return inputs without labels: of a .npz, or the images of a folder, at most `limit`; None for other data."""
    if path.suffix == ".npz":
        return read_inputs_alone(path)
    files = loose_images(path)
    shape = tuple(model.inputs[0].shape)[1:]
    if not files or len(shape) != 3:
        return None
    drawn = [files[number] for number in np.random.default_rng(0).permutation(len(files))[:limit]]
    size = (int(shape[0]), int(shape[1])) if shape[0] and shape[1] else None
    pixels, _, _ = read_images(drawn, Preprocessing(size=size, color=_COLORS.get(shape[2])), str(path))
    return pixels


def _converted(data: Dataset, shape: tuple[int | None, ...]) -> Dataset:
    """Return uint8 images of `data` in the size and colors of `shape`; other inputs unchanged."""
    own = image_preprocessing(data)
    preprocessing = _for_shape(data.train.inputs, own, shape) if own else None
    if preprocessing is None:
        return data
    splits: dict[str, Any] = {name: _converted_split(data.split(name), preprocessing, name) for name in NAMES}
    made = splits["train"].inputs.shape[1:]
    note = f"images of {data.input_shape} converted to {made}, as the model expects"
    return dataclasses.replace(data, **splits, notes=(*data.notes, note))


def _for_shape(inputs: np.ndarray, preprocessing: Preprocessing, shape: tuple[int | None, ...]) -> Preprocessing | None:
    """Return `preprocessing` with the size and colors of `shape`; None for inputs that need or allow no conversion."""
    given = inputs.shape[1:]
    is_image = inputs.dtype == np.uint8 and len(given) == len(shape) == 3 and given[-1] in (1, 3)
    color = _COLORS.get(shape[-1]) if is_image else None
    if color is None:
        return None
    size = (shape[0] or given[0], shape[1] or given[1])
    if (*size, shape[-1]) == given:
        return None
    return dataclasses.replace(preprocessing, size=size, color=color)


def _converted_split(split: Split, preprocessing: Preprocessing, name: str) -> Split:
    return dataclasses.replace(
        split, inputs=convert_images(split.inputs, preprocessing, name), preprocessing=preprocessing
    )
