"""Readers for arrays, .npz files, the built-in digits and tf.data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base import archives
from tfopt.base.limits import LARGEST_DATA
from tfopt.base.reading import reading
from tfopt.data.arrays_by_name import Arrays, count_samples
from tfopt.data.parts import Pair, Parts
from tfopt.data.split import NAMES
from tfopt.data.stored import Collector
from tfopt.errors import DataError

_NPZ_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}

SAMPLES_AT_ONCE = 256

_INPUTS_ALONE = ({"x"}, {"x_train"})


def read_digits() -> Parts:
    """Return scikit-learn's handwritten digits: 1,797 images, uint8 (8, 8, 1) in 0..16, ten classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)
    names = tuple(str(name) for name in digits.target_names)
    return Parts({"train": (images, digits.target)}, "scikit-learn's handwritten digits", names)


def read_npz(path: Path) -> Parts:
    """Read a .npz file with x and y, or x_train, y_train and optionally x_test, y_test, x_val, y_val, class_names.

    Several inputs or outputs have a key each, such as x_train/NAME. Other keys are ignored with a note.

    Raises:
        DataError: not such an archive, or its arrays exceed `limits.LARGEST_DATA`; the size is checked before values
            are read.
    """
    with reading(
        lambda why: DataError(f"Expected a .npz file of plain arrays, got {path}: {why}; save it with numpy.savez.")
    ):
        arrays = _grouped(archives.read_npz(path))
    pairs = {"train": (arrays.pop("x"), arrays.pop("y"))} if {"x", "y"} <= set(arrays) else {}
    for name, endings in _NPZ_NAMES.items():
        for x, y in ((f"x_{ending}", f"y_{ending}") for ending in endings):
            if name not in pairs and x in arrays and y in arrays:
                pairs[name] = (arrays.pop(x), arrays.pop(y))
    if "train" not in pairs and set(arrays) in _INPUTS_ALONE:
        raise DataError(
            f"Expected labels next to the inputs in {path}, got {', '.join(arrays)} alone; save them as y or y_train. "
            "Only `tfopt export --data` needs no labels."
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


def read_inputs_alone(path: Path) -> np.ndarray | None:
    """Return the array of a .npz file that has x or x_train and nothing else; None for other files."""
    try:
        with reading(lambda why: DataError(why)):
            if set(archives.npz_headers(path)) not in _INPUTS_ALONE:
                return None
            (inputs,) = archives.read_npz(path).values()
            return inputs
    except DataError:
        return None  # `read_npz` says why


def read_arrays(source: Any) -> Parts:
    """Read (x, y), or two pairs (train, test), or three (train, validation, test); pairs must then be tuples."""
    if not isinstance(source, tuple) or len(source) not in (2, 3):
        raise DataError(_expected(source))
    nested = all(isinstance(part, tuple) and len(part) == 2 for part in source)
    if nested:
        names = NAMES if len(source) == 3 else ("train", "test")
        return Parts({name: _pair(name, part) for name, part in zip(names, source, strict=True)}, "arrays")
    if len(source) == 3:
        raise DataError(_expected(source))
    return Parts({"train": _pair("train", source)}, "arrays")


def read_dict(source: dict[str, Any]) -> Parts:
    """Read a dict with train and optionally validation and test; each a tf.data.Dataset or a pair (x, y)."""
    if "train" not in source or not set(source) <= set(NAMES):
        raise DataError(
            "Expected a dict with train and, optionally, validation and test, got the keys "
            f"{sorted(map(str, source))}; rename them."
        )
    streams = [name for name, part in source.items() if is_tf_data(part) or is_batches(part)]
    pairs = {name: read_stream(name, part) if name in streams else _pair(name, part) for name, part in source.items()}
    return Parts(pairs, "batches" if streams else "arrays", notes=stream_notes(streams))


def read_stream(name: str, source: Any) -> Pair:
    """Return what `read_tf_data` or `read_batches` does."""
    return read_tf_data(name, source) if is_tf_data(source) else read_batches(name, source)


def is_tf_data(source: Any) -> bool:
    """Return whether `source` is a tf.data.Dataset, without importing TensorFlow."""
    return hasattr(source, "element_spec") and hasattr(source, "cardinality")


def stream_notes(names: list[str]) -> tuple[str, ...]:
    """Return notes about the parts that came in batches."""
    if not names:
        return ()
    return (f"{', '.join(names)} read once from their batches, including what the pipeline does to the values",)


def read_tf_data(name: str, data: Any) -> Pair:
    """Read a finite tf.data.Dataset of (x, y) once, batched or not; x and y may be dicts or tuples.

    Large inputs go into a temporary file.

    Raises:
        DataError: other elements, an infinite cardinality, samples of different shapes, an error of the pipeline, or
            shapes that do not show whether the data is batched.
    """
    import tensorflow as tf

    spec = data.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2 and all(_is_flat(part) for part in spec)):
        raise DataError(
            f"Expected {name} as tf.data of (x, y), each a tensor or several in a dict or tuple, got elements {spec}; "
            "map it to such pairs."
        )
    if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"Expected {name} as tf.data with an end, got an infinite one; use take(n).")
    if int(data.cardinality()) == 0:
        raise DataError(f"Expected samples in {name}, got an empty tf.data; add some.")
    batched = _is_batched(name, *(_shape(part, index, data) for index, part in enumerate(spec)))
    batches = (data if batched else data.batch(SAMPLES_AT_ONCE)).map(_by_name)
    return collected(name, batches.as_numpy_iterator())


def collected(name: str, batches: Iterable[Any]) -> Pair:
    """Return all batches of (x, y), each an array or a dict of arrays; many inputs as a `StoredArray`.

    Args:
        name: of the part.
        batches: read once.

    Raises:
        DataError: there are none, they differ in shape, labels are too large, or reading one fails.
    """
    sides: tuple[dict[str, Collector], ...] = ({}, {})
    first: Any = None
    for batch in _with_named_errors(name, batches):
        first = batch if first is None else first
        for what, collectors, arrays in zip(("inputs", "labels"), sides, batch, strict=True):
            for key, array in (arrays if isinstance(arrays, dict) else {"": arrays}).items():
                most = None if what == "inputs" else LARGEST_DATA
                collectors.setdefault(key, Collector(f"{name} {what} {key}".rstrip(), most)).append(np.asarray(array))
    if first is None:
        raise DataError(f"Expected samples in {name}, got none; add some.")
    found = [{key: each.result() for key, each in collectors.items()} for collectors in sides]
    x, y = (arrays if isinstance(like, dict) else arrays[""] for arrays, like in zip(found, first, strict=True))
    return x, y


def _with_named_errors(name: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield `batches`; an error in one says after how many samples it came."""
    iterator, count = iter(batches), 0
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DataError(
                f"Expected {name} samples of one shape until the end, got an error after {count:,} samples: {why}; "
                "correct the pipeline."
            ) from error
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(f"Expected {name} as batches of (x, y), got a {type(batch).__name__}; leave out weights.")
        yield batch
        count += count_samples(batch[0])


def is_batches(source: Any) -> bool:
    """Return whether `source` gives batches by number: a PyDataset of Keras, or a Sequence of tf_keras."""
    counted = hasattr(type(source), "num_batches") or hasattr(source, "__len__")
    return counted and all(hasattr(source, name) for name in ("__getitem__", "on_epoch_end"))


def read_batches(name: str, source: Any) -> Pair:
    """Read a PyDataset of batches (x, y) once, in their order; large inputs go into a temporary file.

    Raises:
        DataError: it has no end, or as `collected`.
    """
    number = source.num_batches if hasattr(type(source), "num_batches") else len(source)
    if number is None:
        raise DataError(f"Expected {name} as batches with an end, got a PyDataset without; give it a num_batches.")
    return collected(name, (source[place] for place in range(number)))


def _is_flat(part: Any) -> bool:
    """Return whether part of an element is a tensor, or a dict or tuple of tensors."""
    import tensorflow as tf

    inner = part.values() if isinstance(part, dict) else part if isinstance(part, tuple) else [part]
    return all(isinstance(each, tf.TensorSpec) for each in inner)


def _by_name(x: Any, y: Any) -> tuple[Any, Any]:
    """Return each side of an element with the tensors of a tuple by their numbers."""
    x, y = (
        {str(number): each for number, each in enumerate(side)} if isinstance(side, tuple) else side for side in (x, y)
    )
    return x, y


def _shape(spec: Any, index: int, data: Any) -> tuple[int | None, ...]:
    """Return the declared shape, or that of the first element if not even the rank is declared."""
    import tensorflow as tf

    spec = tf.nest.flatten(spec)[0]
    if spec.shape.rank is None:
        first: tuple[int | None, ...] = tf.nest.flatten(next(data.as_numpy_iterator())[index])[0].shape
        return first
    return tuple(spec.shape)


def _is_batched(name: str, x: tuple[int | None, ...], y: tuple[int | None, ...]) -> bool:
    """Return whether the data is batched: x and y then share the leading axis, which single samples rarely do."""
    if not x or not y or x[0] != y[0]:
        return False
    if x[0] is None or len(x) >= 4:
        return True
    if len(x) == 1:
        return False
    raise DataError(
        f"Cannot tell whether {name} is batched, as x {x} and y {y} have the same first axis; batch it "
        "without drop_remainder, so that this axis is None."
    )


def _pair(name: str, pair: Any) -> Pair:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError(f"Expected {name} as a pair (x, y), got {type(pair).__name__}; pass both arrays.")
    x, y = pair
    return _arrays(name + " inputs", x, beside=y), _arrays(name + " labels", y, beside=x)


def _arrays(name: str, values: Any, *, beside: Any) -> Arrays:
    """Return an array, or one for each name of a dict, or for each array in a list of several."""
    if isinstance(values, dict):
        if not values:
            raise DataError(f"Expected {name} by name, got an empty dict; pass an array for each.")
        return {str(key): _array(f"{name} {key!r}", value) for key, value in values.items()}
    if (samples := _samples_of_each(values)) and samples != len(values) and samples in _counts(beside):
        return {str(number): _array(f"{name} {number}", value) for number, value in enumerate(values)}
    return _array(name, values)


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


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"Expected {name} as an array, got rows of differing shapes ({error}); make them equal."
        ) from error


def _expected(source: Any) -> str:
    return (
        'Expected "digits", a folder, a .npz file, (x, y), ((x_train, y_train), (x_test, y_test)), three '
        "such pairs, a "
        f"dict or a tf.data.Dataset, got {type(source).__name__}"
        + (f" of length {len(source)}" if isinstance(source, (tuple, list)) else "")
        + "; pass one of these."
    )
