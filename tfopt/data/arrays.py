"""Readers for arrays, .npz files and the built-in digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base import archives
from tfopt.base.reading import reading
from tfopt.data.arrays_by_name import Arrays, refuse_masked
from tfopt.data.collected import Samples
from tfopt.data.parts import Parts
from tfopt.data.split import NAMES
from tfopt.data.stored import RowsOnDisk
from tfopt.data.streams import Steps, is_stream, read_stream, steps_by_part, stream_notes
from tfopt.data.text import as_strings
from tfopt.errors import DataError

_NPZ_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}

_INPUTS_ALONE = ({"x"}, {"x_train"})


def read_digits() -> Parts:
    """Return scikit-learn's handwritten digits: 1,797 images, uint8 (8, 8, 1) in 0..16, ten classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)
    names = tuple(str(name) for name in digits.target_names)
    return Parts({"train": (images, digits.target)}, "scikit-learn's handwritten digits", names)


def is_npz(source: Any) -> bool:
    """Return whether `source` is the path of a .npz file."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() == ".npz"


def read_npz(path: Path, *, anomalies: bool = False) -> Parts:
    """Read a .npz file with x and y, or x_train, y_train and optionally x_test, y_test, x_val, y_val, class_names.

    Several inputs or outputs have a key each, such as x_train/NAME. Other keys are ignored with a note. With
    `anomalies`, samples without labels have labels of 0, for normal ones.

    Raises:
        DataError: not such an archive, or its arrays exceed `limits.LARGEST_DATA`; the size is checked before values
            are read.
    """
    with reading(
        lambda why: DataError(f"Expected a .npz file of plain arrays, got {path}: {why}; save it with numpy.savez.")
    ):
        arrays = _grouped(archives.read_npz(path))
    if anomalies:
        arrays = _all_normal(arrays) | arrays
    pairs = {"train": (arrays.pop("x"), arrays.pop("y"))} if {"x", "y"} <= set(arrays) else {}
    for name, endings in _NPZ_NAMES.items():
        for x, y in ((f"x_{ending}", f"y_{ending}") for ending in endings):
            if name not in pairs and x in arrays and y in arrays:
                pairs[name] = (arrays.pop(x), arrays.pop(y))
    if "train" not in pairs and set(arrays) in _INPUTS_ALONE:
        raise DataError(
            f"Expected labels next to the inputs in {path}, got {', '.join(arrays)} alone; save them as y or y_train. "
            "Only `tfopt export`, `verify`, `compare` and `bench` need no labels."
        )
    if "train" not in pairs:
        raise DataError(
            f"Expected the keys x_train and y_train (and x_test, y_test, x_val, y_val), or x and y, in "
            f"{path}, got {', '.join(sorted(arrays)) or 'none'}; save them under these names."
        )
    names = arrays.pop("class_names", None)
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise DataError(f"Expected class_names in {path} as strings (classes,), got {names.dtype} {names.shape}.")
    notes = (f"keys left out: {', '.join(sorted(arrays))}",) if arrays else ()
    class_names = None if names is None else tuple(map(str, names))
    return Parts(pairs, f"file {path.name}", class_names, notes)


def has_raw_inputs(path: Path) -> bool:
    """Return whether the inputs in a .npz file are texts or records; False for a file that `read_npz` refuses."""
    try:
        with reading(lambda why: DataError(why)):
            headers = archives.npz_headers(path)
    except DataError:
        return False
    inputs = [header for key, header in headers.items() if key.partition("/")[0] in ("x", "x_train")]
    return any(header.dtype.kind in "SUV" for header in inputs)


def _grouped(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return arrays called GROUP/NAME, of one of several inputs or outputs, as dicts by NAME."""
    found: dict[str, Any] = {}
    for key, array in arrays.items():
        group, slash, name = key.partition("/")
        if slash:
            found.setdefault(group, {})[name] = array
        else:
            found[key] = array
    return found


def _all_normal(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return labels of 0 for the inputs of each part."""
    parts = ["", *(f"_{ending}" for endings in _NPZ_NAMES.values() for ending in endings)]
    inputs = {part: arrays[f"x{part}"] for part in parts if isinstance(arrays.get(f"x{part}"), np.ndarray)}
    return {f"y{part}": np.zeros(len(x) if x.ndim else 0, np.int32) for part, x in inputs.items()}


def read_inputs_alone(path: Path) -> Arrays | None:
    """Return what a .npz file holds that has x or x_train, or x/NAME for each of several, and nothing else.

    None stands for other files; `read_npz` says what is wrong with them.
    """
    try:
        with reading(lambda why: DataError(why)):
            if {key.partition("/")[0] for key in archives.npz_headers(path)} not in _INPUTS_ALONE:
                return None
            inputs: Arrays = next(iter(_grouped(archives.read_npz(path)).values()))
            return inputs
    except DataError:
        return None


def read_arrays(source: Any) -> Parts:
    """Read (x, y) or (x, y, weights), or tuples of two (train, test) or three (train, validation, test) of these."""
    if not isinstance(source, tuple) or len(source) not in (2, 3):
        raise DataError(_expected(source))
    if all(isinstance(part, tuple) and (len(part) == 2 or _is_weighted(part, source)) for part in source):
        names = NAMES if len(source) == 3 else ("train", "test")
        return _parts(dict(zip(names, source, strict=True)), "arrays")
    return _parts({"train": source}, "arrays")


def read_dict(source: dict[str, Any], steps: Steps | None = None) -> Parts:
    """Read a dict with train and optionally validation and test: streams, or (x, y) or (x, y, weights).

    Of streams, `steps` batches are taken, or all.
    """
    if "train" not in source or not set(source) <= set(NAMES):
        raise DataError(
            "Expected a dict with train and, optionally, validation and test, got the keys "
            f"{sorted(map(str, source))}; rename them."
        )
    return _parts(source, "arrays", steps)


def _parts(parts: Mapping[str, Any], source: str, steps: Steps | None = None) -> Parts:
    streams = [name for name, part in parts.items() if is_stream(part)]
    taken = steps_by_part(steps, streams)
    read = {
        name: read_stream(name, part, taken[name]) if name in streams else _samples(name, part)
        for name, part in parts.items()
    }
    return Parts(
        {name: (x, y) for name, (x, y, _) in read.items()},
        "batches" if streams else source,
        notes=stream_notes(streams),
        weights={name: weights for name, (_, _, weights) in read.items() if weights is not None},
    )


def _is_weighted(part: tuple[Any, ...], parts: tuple[Any, ...]) -> bool:
    """Return whether a tuple is (x, y, weights) rather than three inputs or outputs.

    Weights (n, 1) may as well be an input or output: only parts have inputs of one shape.
    """
    if len(part) != 3 or isinstance(part[2], dict) or np.ndim(part[2]) == 1:
        return len(part) == 3
    inputs = {getattr(each[0], "shape", (0,))[1:] for each in parts}
    labels = {getattr(each[1], "shape", (0,))[1:] for each in parts}
    return np.shape(part[2])[1:] == (1,) and len(inputs) == len(labels) == 1


def _samples(name: str, given: Any) -> Samples:
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise DataError(f"Expected {name} as (x, y) or (x, y, weights), got {type(given).__name__}; pass such arrays.")
    x, y, weights = (*given, None)[:3]
    inputs, labels = _arrays(name + " inputs", x, beside=y), _arrays(name + " labels", y, beside=x)
    return inputs, labels, None if weights is None else _arrays(name + " weights", weights, beside=x)


def _arrays(name: str, values: Any, *, beside: Any) -> Arrays:
    """Return an array, or one for each name of a dict, or for each array in a list of several."""
    if isinstance(values, dict):
        if not values:
            raise DataError(f"Expected {name} by name, got an empty dict; pass an array for each.")
        if nested := [key for key, value in values.items() if isinstance(value, dict)]:
            raise DataError(
                f"Expected {name} as one dict with an array for each name, got another dict for {nested[0]!r}; give "
                "each array its own name."
            )
        return {str(key): _array(f"{name} {key!r}", value) for key, value in values.items()}
    if (samples := _samples_of_each(values)) and samples != len(values) and samples in _counts(beside):
        return {str(number): _array(f"{name} {number}", value) for number, value in enumerate(values)}
    found: Arrays = _array(name, values)
    return found


def _samples_of_each(values: Any) -> int:
    """Return how many samples the arrays in a list have, if it is one of an array for each input or output; else 0."""
    if not isinstance(values, list | tuple) or len(values) < 2:
        return 0
    if not all(isinstance(value, np.ndarray) and value.ndim for value in values):
        return 0
    counts = {len(value) for value in values}
    return counts.pop() if len(counts) == 1 else 0


def _counts(values: Any) -> set[int]:
    """Return how many samples `values` may have."""
    if isinstance(values, dict):
        return {len(value) for value in values.values() if hasattr(value, "__len__")}
    return {len(values), _samples_of_each(values)} if hasattr(values, "__len__") else set()


def _array(name: str, values: Any) -> Any:
    if isinstance(values, RowsOnDisk):  # of a stream that was read before
        return values
    refuse_masked(name, values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"Expected {name} as an array, got rows of differing shapes ({error}); make them equal."
        ) from error
    return as_strings(name, array) if array.dtype.kind in "SO" else array


def _expected(source: Any) -> str:
    return (
        'Expected "digits", a folder, a .npz file, (x, y), (x, y, weights), ((x_train, y_train), (x_test, y_test)), '
        f"three such pairs, a dict or a tf.data.Dataset, got {type(source).__name__}"
        + (f" of length {len(source)}" if isinstance(source, (tuple, list)) else "")
        + "; pass one of these."
    )
