"""Loading of any source into one `Dataset`: read, interpret the labels, check, split, decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfopt.data.cells import number_in
from tfopt.data.check import check_narrow_inputs, check_numbers, check_pair, check_same_inputs
from tfopt.data.class_names import check_names, names_of_classes
from tfopt.data.dataset import Dataset
from tfopt.data.front_end import FrontEnd
from tfopt.data.inputs import chosen_inputs
from tfopt.data.labeled import labeled, labeled_by_masks
from tfopt.data.parts import Parts
from tfopt.data.preprocessing import Color, Preprocessing
from tfopt.data.reconstruction import is_normal, with_flags, with_labels
from tfopt.data.samples import Split
from tfopt.data.sources import read_source
from tfopt.data.split import SEED, TEST
from tfopt.data.stored import chunks_of
from tfopt.errors import DataError
from tfopt.tasks import Forecasting, Reconstruction, Regression, Several
from tfopt.tasks.mask_values import checked_values

FEWEST_IMAGES = 2
"""Minimum number of images per class in a folder."""
_VALUES = (Regression.kind, Forecasting.kind)
"""Tasks whose labels are values, even if they look like classes."""


def load_data(
    source: Any,
    *,
    preprocessing: str | FrontEnd | None = None,
    size: tuple[int, int] | None = None,
    color: Color | None = None,
    text: str | None = None,
    labels: str | None = None,
    seed: int | None = None,
    validation: float | None = None,
    test: float | None = None,
    limit: int | None = None,
    steps: int | Mapping[str, int] | None = None,
    task: str | None = None,
    features: Mapping[str, Any] | None = None,
    cache: str | Path | Literal[False] | None = None,
    mask_values: Sequence[int] | None = None,
) -> Dataset:
    """Read `source` into memory, check it and split off missing parts.

    Args:
        source: "digits" (scikit-learn's, 8x8); the path of a folder of images, recordings or texts (one folder per
            class, directly or below train, val or validation and test), of a .npz file or of a table (.csv, .tsv,
            .jsonl or .parquet, also .gz) or a folder of them; (x, y), ((x_train, y_train), (x_test, y_test)) or (train,
            validation, test) pairs; a dict of pairs, tf.data or tables with train, validation, test; a tf.data.Dataset
            or PyDataset of (x, y), batched or not; TFRecord files, one or a folder of them; "tfds:NAME" of
            tensorflow-datasets; a data set of Hugging Face; or a Dataset, returned unchanged. For several inputs x is a
            dict by name, or a list in the model's order; so is y for outputs. (x, y, weights) instead of (x, y) weighs
            the samples in training.
        preprocessing: "raw" (the default: values unchanged), "unit" (x/255), "symmetric" (x/127.5 - 1), "caffe" or
            "torch" (see `Preprocessing.named`), or a custom one. The digits, 0..16, default to pixel/16. For texts,
            recordings and tables, a `Text`, `Sound` or `Table` of `tfopt.inputs`, with settings or that of a model.
        size: (height, width) to resize images to.
        color: "rgb" or "grayscale"; None keeps the color of the images.
        text: the column of a table, or of rows of other sources, that has texts; None: "text", if there is one.
        labels: the column of a table, or of rows of other sources, that has the labels; None: "label".
        seed: of every split; None for 0.
        validation: fraction of train to split off if there is no validation part, at most 2,000 samples; None for a
            tenth, or a fifth of fewer than 1,000.
        test: fraction of train to split off if there is no test part; None for a fifth.
        limit: the most samples in each of train, validation and test, spread over the classes.
        steps: batches to take of each tf.data or PyDataset, also of one without an end (samples, of tf.data that is not
            batched); by the name of the part, or one number for all. None takes all.
        task: what the labels mean, where they leave it open: "classification", "multilabel", "regression",
            "segmentation" or "forecasting". "reconstruction" makes the inputs the targets: labels are then 0 for normal
            samples and 1 for anomalies, or missing (an array alone). None judges by the labels.
        features: how to parse the records of TFRecord files, as for `tf.io.parse_single_example`; None infers it.
        cache: a folder that keeps the decoded images of a folder for later runs on the same files. None keeps them in
            memory, or, above 1 GiB, in a temporary file; False decodes them whenever they are read, as None does if
            the disk has no room for them.
        mask_values: the values of masks, in a folder or as integers (n, height, width), by class; None: all that there
            are in the masks of a folder, and class numbers in arrays.

    Raises:
        DataError: the data cannot be read, is not finite, contradicts itself, or has values that float32 cannot tell
            apart.

    Examples:
        >>> data = tfopt.load_data("digits")
        >>> len(data.train), len(data.validation), len(data.test), data.input_shape
        (1294, 144, 359, (8, 8, 1))
        >>> data = tfopt.load_data((x, y), validation=0.2, test=0.2)
        >>> data.task, data.num_classes
        ('classification', 10)
    """
    if isinstance(source, Dataset):
        named: dict[str, Any] = {"preprocessing": preprocessing, "size": size, "color": color, "text": text}
        named |= {"labels": labels, "seed": seed, "validation": validation, "test": test, "limit": limit}
        named |= {"steps": steps, "task": task, "features": features, "cache": cache, "mask_values": mask_values}
        if useless := [name for name, value in named.items() if value is not None]:
            raise DataError(
                f"Expected a Dataset alone, which is returned unchanged, also got {', '.join(useless)}; give them "
                "where you load it."
            )
        return source
    if isinstance(cache, bool) and cache:
        raise DataError("Expected cache as a folder, or False to decode images whenever they are read; got True.")
    values_by_class = None if mask_values is None else checked_values(mask_values)
    applied = _requested_preprocessing(
        preprocessing, size, color, digits=isinstance(source, str) and source == "digits"
    )
    try:
        parts = read_source(
            with_labels(source) if task == Reconstruction.kind else source,
            text,
            labels,
            applied,
            features,
            values=task in _VALUES,
            anomalies=task == Reconstruction.kind,
            steps=steps,
        )
        return _loaded(
            parts,
            applied,
            preprocessing,
            seed=SEED if seed is None else seed,
            validation=validation,
            test=TEST if test is None else test,
            limit=limit,
            task=task,
            cache=cache if cache is None or cache is False else Path(cache),
            mask_values=values_by_class,
        )
    except DataError as error:
        if not isinstance(source, Path | str) or source == "digits" or str(source) in str(error):
            raise
        raise DataError(f"{source}: {error}") from error


def _loaded(
    parts: Parts,
    applied: FrontEnd,
    preprocessing: str | FrontEnd | None,
    *,
    seed: int,
    validation: float | None,
    test: float,
    limit: int | None,
    task: str | None,
    cache: Path | Literal[False] | None,
    mask_values: tuple[int, ...] | None,
) -> Dataset:
    """Check and split what was read. Raise `DataError` as `load_data` does."""
    if cache is not None and not parts.files:
        raise DataError(f"Expected a folder of images for cache=, got {parts.source}; leave it out.")
    _check_classes(parts, task)
    if task in _VALUES and parts.class_names:
        parts = _with_values(parts, task)
    reconstructs = task == Reconstruction.kind
    if reconstructs and not parts.masks:
        parts = with_flags(parts)
    if isinstance(applied, Preprocessing) and parts.color:
        applied = replace(applied, color=parts.color)
    if parts.front_end:  # it checks the samples when it is fitted to them
        for name, (x, y) in parts.pairs.items():
            check_numbers(name, x, y)
    elif not parts.files:  # files are checked when they are listed and when they are decoded
        _check_inputs(parts, scaled=isinstance(preprocessing, str) and preprocessing != "raw")
    options: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    if parts.masks:
        size = applied.size if isinstance(applied, Preprocessing) else None
        found = labeled_by_masks(parts, size, task, mask_values, **options)
    else:
        found = labeled(parts, task, mask_values, **options)
    names, name_notes = names_of_classes(parts.class_names, found.task)
    inputs, applied, image_notes = chosen_inputs(parts, found.chosen, applied, cache)
    splits: dict[str, Any] = {
        name: Split(inputs[name], labels, applied, reconstructs, found.weights.get(name))
        for name, labels in found.labels.items()
    }
    return Dataset(
        **splits,
        class_names=names,
        task=found.task.kind,
        labels=found.task.labels,
        num_classes=found.task.num_classes,
        source=parts.source,
        notes=(*parts.notes, *found.label_notes, *name_notes, *found.split_notes, *image_notes),
        outputs=found.task.tasks if isinstance(found.task, Several) else None,
        mask_values=found.mask_values,
    )


def _with_values(parts: Parts, task: str | None) -> Parts:
    """Return `parts` with the values that class names are, if the labels are numbers of these classes.

    Raises:
        DataError: the names are words.
    """
    if not all(_are_classes(y, len(parts.class_names or ())) for _, y in parts.pairs.values()):
        return parts  # the labels are the values
    values = [number_in(name) for name in parts.class_names or ()]
    if words := [name for name, value in zip(parts.class_names or (), values, strict=True) if value is None]:
        raise DataError(
            f"Expected values for the task {task!r}, got classes with names, such as {words[0]!r}: their numbers are "
            "their order alone. Name them by their values, give a table with a column of values, or leave the task out."
        )
    by_class = np.array(values, np.float64)
    pairs = {name: (x, by_class[np.asarray(y, np.int64)]) for name, (x, y) in parts.pairs.items()}
    said = f"the names of the classes are taken as their values: {', '.join((parts.class_names or ())[:5])}"
    said += ", ..." if len(values) > 5 else ""
    return replace(parts, pairs=pairs, class_names=None, notes=(*parts.notes, said))


def _are_classes(labels: Any, number: int) -> bool:
    """Return whether labels are integers (n,) or (n, 1) within 0..number-1."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biu" or labels.shape[1:] not in ((), (1,)):
        return False
    return bool(((labels >= 0) & (labels < number)).all())


def _check_classes(parts: Parts, task: str | None) -> None:
    """Raise `DataError` for class names as `check_names` does, and for class folders too small to split.

    Anomalies are not split: all are for the test.
    """
    check_names(parts.class_names or ())
    if parts.files and parts.class_names and "test" not in parts.pairs:
        counts = np.bincount(parts.pairs["train"][1], minlength=len(parts.class_names))
        divided = [name for name in parts.class_names if task != Reconstruction.kind or is_normal(name)]
        of_class = dict(zip(parts.class_names, counts, strict=True))
        if alone := [name for name in divided if of_class[name] < FEWEST_IMAGES]:
            raise DataError(
                f"Expected at least {FEWEST_IMAGES} images in each class folder, one to train on and one to measure "
                f"on; got one in {', '.join(alone)}. Add images, or remove the folder."
            )


def _requested_preprocessing(
    preprocessing: str | FrontEnd | None,
    size: tuple[int, int] | None,
    color: Color | None,
    *,
    digits: bool,
) -> FrontEnd:
    """Return the preprocessing that the arguments request together."""
    if digits and isinstance(preprocessing, str) and preprocessing != "raw":
        raise DataError(
            f"The digits have pixels of 0..16; preprocessing {preprocessing!r} is for 0..255. Leave it out to feed "
            "pixel/16, or pass your own Preprocessing."
        )
    if preprocessing is None:
        preprocessing = Preprocessing(scale=1 / 16) if digits else Preprocessing()
    if not isinstance(preprocessing, str | FrontEnd):
        raise DataError(
            f"Expected preprocessing as a name (raw, unit, symmetric, caffe, torch) or a Preprocessing, got "
            f"{preprocessing!r}."
        )
    if isinstance(preprocessing, str):
        preprocessing = Preprocessing.named(preprocessing)
    if not isinstance(preprocessing, Preprocessing):
        if size or color:
            raise DataError(f"Expected no size or color for {preprocessing.subject}; they are for images.")
        return preprocessing
    for name, given in (("size", size), ("color", color)):
        stated = getattr(preprocessing, name)
        if given is not None and stated is not None and given != stated:
            raise DataError(f"Expected one {name}, got {given} and, in preprocessing, {stated}; pass it once.")
    return replace(preprocessing, size=size or preprocessing.size, color=color or preprocessing.color)


def _check_inputs(parts: Parts, *, scaled: bool) -> None:
    """Check arrays; with `scaled`, also that they are not scaled twice, which would make them nearly constant."""
    for name, (x, y) in parts.pairs.items():
        check_pair(name, x, y)
    inputs: dict[str, Any] = {name: x for name, (x, _) in parts.pairs.items()}
    check_same_inputs(inputs)
    check_narrow_inputs(list(inputs.values()))
    if not scaled or isinstance(inputs["train"], dict):
        return
    largest = max(_largest(x) for x in inputs.values())
    if largest <= 1 and inputs["train"].dtype.kind == "f":
        raise DataError(
            f"Expected pixels of 0..255 for this preprocessing, got floats of at most "
            f"{largest:g}; leave preprocessing out, because they are already scaled."
        )


def _largest(inputs: Any) -> float:
    return max(float(np.abs(chunk).max()) for chunk in chunks_of(inputs))
