"""Checks of data before a model sees it; a failure is a `DataError`, or a `ModelError` for a model no data fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt.base.limits import LARGEST_DATA
from tfopt.base.narrowing import check_float32
from tfopt.data.arrays_by_name import Arrays, in_order, leaves, names_of, refuse_masked
from tfopt.data.split import NAMES
from tfopt.data.stored import chunks_of
from tfopt.errors import DataError, ModelError
from tfopt.tasks import task_of
from tfopt.tasks.labels import check_range

if TYPE_CHECKING:
    from tfopt.data.dataset import Dataset
    from tfopt.data.front_end import FrontEnd

LARGEST_BYTES = LARGEST_DATA
_ROWS_AT_ONCE = 4096


def check_pair(name: str, inputs: Arrays, labels: Arrays) -> None:
    """Raise `DataError` unless the inputs pass `check_inputs` and match the labels in number."""
    check_numbers(name, inputs, labels)
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    for key, array in named.items():
        check_inputs(f"{name} {key}".rstrip(), array)


def check_numbers(name: str, inputs: Arrays, labels: Arrays) -> None:
    """Raise `DataError` unless there are as many samples in all inputs and labels of the part called `name`."""
    if isinstance(inputs, np.ndarray) and isinstance(labels, np.ndarray):
        if labels.ndim and inputs.ndim and len(inputs) != len(labels):
            raise DataError(
                f"Expected as many {name} labels as inputs, got {len(inputs):,} inputs and {len(labels):,} "
                "labels; pair them up."
            )
        return
    described = [*names_of(inputs, "inputs"), *names_of(labels, "labels")]
    counts = {what: len(a) if a.ndim else 0 for what, a in zip(described, leaves(inputs) + leaves(labels), strict=True)}
    if len(set(counts.values())) > 1:
        came = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        raise DataError(f"Expected equally many samples of all {name} inputs and labels, got {came}; pair them up.")


def check_inputs(name: str, inputs: np.ndarray) -> None:
    """Raise `DataError` unless inputs (n, ...), n > 0, are numbers, finite as float32."""
    refuse_masked(f"{name} inputs", inputs)
    if inputs.dtype.kind not in "biuf":
        texts = "for texts, preprocessing=tfopt.inputs.Text() does" if inputs.dtype.kind in "OSU" else ""
        raise DataError(
            f"Expected {name} inputs as numbers, got dtype {inputs.dtype}; encode them as numbers first"
            f"{texts and '; '}{texts}."
        )
    if inputs.ndim < 2:
        raise DataError(
            f"Expected {name} inputs of shape (n, ...), at least two axes, got {inputs.shape}; reshape "
            "single values to (n, 1)."
        )
    if 0 in inputs.shape:
        raise DataError(f"Expected samples in {name}, got inputs of shape {inputs.shape}; add some.")
    if inputs.dtype.kind == "f":
        _check_finite(name, inputs)


def check_same_inputs(inputs: Mapping[str, Arrays]) -> None:
    """Raise `DataError` unless all parts have the same inputs, with the same shapes and kinds of number."""
    names = {part: sorted(arrays) if isinstance(arrays, dict) else [] for part, arrays in inputs.items()}
    if len({tuple(each) for each in names.values()}) > 1:
        came = "; ".join(f"{part} has {', '.join(each) or 'one'}" for part, each in names.items())
        raise DataError(f"Expected the same inputs in all parts, got: {came}. Give each part an array for each.")
    forms = {
        part: [(array.shape[1:], _kind(array)) for array in leaves(in_order(arrays, names[part]))]
        for part, arrays in inputs.items()
    }
    if any(form != forms["train"] for form in forms.values()):
        came = "; ".join(
            f"{part} has {' and '.join(f'{kind} of shape {shape}' for shape, kind in form)}"
            for part, form in forms.items()
        )
        raise DataError(f"Expected inputs of one shape and scale in all parts, got: {came}. Prepare them the same way.")


def check_narrow_inputs(parts: Sequence[Arrays]) -> None:
    """Raise `DataError` if float32, which models receive, cannot tell the values of inputs (n, ...) apart.

    Args:
        parts: inputs with the same names and shapes; a column is compared over all of them.
    """
    for name, what in zip(parts[0] if isinstance(parts[0], dict) else [""], names_of(parts[0], "inputs"), strict=True):
        check_float32(what, [part[name] if isinstance(part, dict) else part for part in parts])


def require_numbers(model: Any) -> None:
    """Raise `ModelError` if a Keras model or a `LiteModel` takes strings, which a front end is for."""
    inputs = getattr(model, "inputs", None) or ()
    if strings := [str(tensor.name) for tensor in inputs if "string" in str(getattr(tensor, "dtype", ""))]:
        raise ModelError(
            f"Expected a model that takes numbers, got strings as the input {strings[0]!r}, which are not read "
            "only by a TextVectorization with the default standardize and split. Give the model behind its layer for "
            "texts, and data with preprocessing=tfopt.inputs.Text(vocabulary=layer.get_vocabulary(), "
            "length=...), where length is the output_sequence_length of a TextVectorization: a .tflite with this front "
            "end answers as both do."
        )


def check_front_end(data: Dataset, own: FrontEnd | None) -> None:
    """Raise `DataError` if samples come from another front end than `own`, which the model had as a layer."""
    if own is None or not isinstance(data.preprocessing, type(own)):
        return
    given, wanted = (front_end.to_dict() for front_end in (data.preprocessing, own))
    if differ := [name for name in ("vocabulary_sha256", "ngrams") if given.get(name) != wanted.get(name)]:
        raise DataError(
            f"Expected data with the {differ[0].partition('_')[0]} of the model's own layer for texts, got a Dataset "
            "with another: give the texts as they are, or load them with preprocessing=tfopt.inputs.Text(vocabulary="
            "layer.get_vocabulary(), ...)."
        )


def check_bytes(size: int, what: str) -> None:
    """Raise `DataError` if `what` would take more memory than a data set may."""
    if size > LARGEST_BYTES:
        raise DataError(
            f"Expected at most {LARGEST_BYTES / 2**30:.0f} GiB of data, because it is held in memory; got about "
            f"{size / 2**30:.1f} GiB from {what}; use fewer or smaller samples."
        )


def has_one_input_and_output(model: Any) -> bool:
    """Return whether a Keras model or a `LiteModel` has one input and one output."""
    return len(model.inputs) == len(model.outputs) == 1


def require_one_input_and_output(model: Any, name: object, instead: str) -> None:
    """Raise `ModelError` unless `model` has one input and one output.

    Args:
        model: a Keras model or a `LiteModel`.
        name: of the model in the message.
        instead: what to do with other models.
    """
    if not has_one_input_and_output(model):
        raise ModelError(
            f"Expected a model with one input and one output, but {name} has {len(model.inputs)} and "
            f"{len(model.outputs)}; {instead}."
        )


def fit_to_model(
    dataset: Dataset, input_shape: tuple[int | None, ...], num_outputs: int, places: Sequence[int | None] = ()
) -> None:
    """Raise `DataError` unless the inputs and labels of `dataset` fit a model with one input and one output.

    Args:
        dataset: the data.
        input_shape: the shape of one input, without the batch axis; None stands for any size.
        num_outputs: width of the model's output. A single output takes class numbers 0 and 1.
        places: the other axes of the model's output, e.g. (height, width) of a segmentation; None stands for any size.
    """
    _check_input("inputs", dataset.input_shape, tuple(input_shape))
    check_labels(dataset, num_outputs, places)


def fit_to_ports(dataset: Dataset, model: Any) -> None:
    """Raise `DataError` unless `dataset` fits a flat tf_keras `model` with any number of inputs and outputs.

    Args:
        dataset: the data, with the names of the model's inputs and outputs if there are several.
        model: of tf_keras.
    """
    fit_inputs(dataset, model)
    for name, tensor in zip(task_of(dataset).by_task(), model.outputs, strict=True):
        shape = tuple(tensor.shape[1:]) or (1,)
        try:
            check_labels(dataset.of_output(name), shape[-1], shape[:-1])
        except DataError as error:
            raise DataError(f"Output {name!r}: {error}" if name else str(error)) from None


def fit_inputs(dataset: Dataset, model: Any) -> None:
    """Raise `DataError` unless the inputs of `dataset` have the shapes of those of a Keras model or a `LiteModel`."""
    shapes = dataset.train.shapes
    for what, shape, tensor in zip(names_of(shapes, "inputs"), leaves(shapes), model.inputs, strict=True):
        _check_input(what, shape, tuple(tensor.shape[1:]))


def _check_input(what: str, given: tuple[int, ...], expected: tuple[int | None, ...]) -> None:
    fits = len(given) == len(expected) and all(e in (None, g) for g, e in zip(given, expected, strict=True))
    if not fits:
        raise DataError(
            f"The model expects {what} of shape {expected}, the data has {given}; {_advice(given, expected)}."
        )


def check_labels(dataset: Dataset, num_outputs: int, places: Sequence[int | None] = ()) -> None:
    """Raise `DataError` unless the labels of `dataset`, if there are any, fit one output; see `fit_to_model`."""
    if dataset.labels == "none":
        return
    if dataset.labels == "values":
        _check_values(dataset, (*places, num_outputs))
        return
    _check_places(dataset, places)
    if dataset.labels == "sparse":
        _check_named_classes(dataset.class_names, num_outputs)
        for name in NAMES:
            labels = dataset.split(name).labels
            for part in chunks_of(labels):
                check_range(name, part, max(num_outputs, 2))
    elif dataset.labels == "one-hot" and (width := dataset.train.target_shape[-1]) != num_outputs:
        raise DataError(
            f"The model has {num_outputs} outputs, the labels ({dataset.task}) have {width} values per "
            "sample; give the model an output for each, or correct the labels."
        )


def _check_values(dataset: Dataset, expected: tuple[int | None, ...]) -> None:
    """Raise `DataError` unless labels have the shape of the model's outputs; a single value may have no axis."""
    own = dataset.train.target_shape
    if len(own) == len(expected) and all(size in (None, mine) for size, mine in zip(expected, own, strict=True)):
        return
    if own == () and all(size == 1 for size in expected):
        return
    same = None not in expected and math.prod(own) == math.prod(size or 0 for size in expected)
    advice = f"reshape the labels to (n, {', '.join(map(str, expected))})" if same else "give the model such outputs"
    raise DataError(
        f"The model gives values of shape {expected} for a sample, the labels ({dataset.task}) have {own}; {advice}, "
        "or correct the labels."
    )


def _check_places(dataset: Dataset, places: Sequence[int | None]) -> None:
    """Raise `DataError` unless a class for each place of the labels meets an output for each place."""
    own = dataset.train.target_shape if dataset.labels == "sparse" else dataset.train.target_shape[:-1]
    if (own or any(size != 1 for size in places)) and not (
        len(own) == len(places) and all(size in (None, mine) for size, mine in zip(places, own, strict=True))
    ):
        raise DataError(
            f"The model gives classes for places of shape {tuple(places)}, the labels have {own}; () is one class for "
            "the whole sample. Bring labels for the outputs of the model, or a model for these labels."
        )


def _check_named_classes(names: tuple[str, ...] | None, num_outputs: int) -> None:
    """Raise `DataError` unless there is an output for each class. Unnamed classes may be some of the model's."""
    if names is None or len(names) == num_outputs or (num_outputs == 1 and len(names) == 2):
        return
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise DataError(
        f"The model has {num_outputs:,} outputs, the data has {len(names):,} classes ({first}). To train the model for "
        "them, use a recipe with a transfer, e.g. recipes/feature_transfer.py; otherwise bring data with the model's "
        "classes, one folder for each."
    )


def _advice(given: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    if len(expected) == 3 and len(given) == 2:
        return "add a channel axis: x[..., None]"
    if len(expected) != 3 or len(given) != 3:
        return "reshape the data, or use a model for this shape"
    height, width, channels = expected
    hints = []
    if (height or given[0], width or given[1]) != given[:2]:
        hints.append(f"size=({height or given[0]}, {width or given[1]})")
    if channels not in (None, given[2]):
        color = {1: "grayscale", 3: "rgb"}.get(channels)
        if color is None or given[2] not in (1, 3):
            return f"give the data {channels} channels, or use a model with {given[2]}"
        hints.append(f'color="{color}"')
    return f"give images in that form, or in Python pass {' and '.join(hints)} to load_data"


def _kind(array: np.ndarray) -> str:
    return "floats" if array.dtype.kind == "f" else str(array.dtype)


def _check_finite(name: str, inputs: np.ndarray) -> None:
    """Check in slices, to avoid a second array of full size, and as float32, which models receive."""
    bad: list[int] = []
    for start in range(0, len(inputs), _ROWS_AT_ONCE):
        with np.errstate(over="ignore"):
            rows = inputs[start : start + _ROWS_AT_ONCE].astype(np.float32, copy=False)
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        bad.extend(start + np.flatnonzero(~finite))
    if bad:
        raise DataError(
            f"Expected finite {name} inputs, got NaN or infinity{_wide(inputs)} in {len(bad):,} of {len(inputs):,} "
            f"samples, the first at index {bad[0]}; remove or replace them."
        )


def _wide(inputs: np.ndarray) -> str:
    return ", or numbers beyond float32 (3.4e38)," if inputs.dtype.itemsize > 4 else ""
