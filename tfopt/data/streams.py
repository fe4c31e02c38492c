"""Readers of samples that come one after the other or in batches: tf.data and PyDatasets of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfopt.base.limits import LARGEST_DATA
from tfopt.base.words import reason_of
from tfopt.data.arrays_by_name import count_samples
from tfopt.data.stored import Collector
from tfopt.errors import DataError

Samples = tuple[Any, Any, Any]
"""Inputs, labels and weights, each an array or a dict of arrays; without weights these are None."""
SAMPLES_AT_ONCE = 256
_SIDES = ("inputs", "labels", "weights")


def is_stream(source: Any) -> bool:
    """Return whether `source` is a tf.data.Dataset, or gives batches by number."""
    return is_tf_data(source) or is_batches(source)


def read_stream(name: str, source: Any) -> Samples:
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


def read_tf_data(name: str, data: Any) -> Samples:
    """Read a finite tf.data.Dataset of (x, y) or (x, y, weights) once, batched or not.

    x, y and weights may be dicts or tuples. Large inputs go into a temporary file.

    Raises:
        DataError: other elements, an infinite cardinality, samples of different shapes, an error of the pipeline, or
            shapes that do not show whether the data is batched.
    """
    import tensorflow as tf

    spec = data.element_spec
    if not (isinstance(spec, tuple) and len(spec) in (2, 3) and all(_is_flat(part) for part in spec)):
        raise DataError(
            f"Expected {name} as tf.data of (x, y) or (x, y, weights), each a tensor or several in a dict or tuple, "
            f"got elements {spec}; map it to such pairs."
        )
    if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"Expected {name} as tf.data with an end, got an infinite one; use take(n).")
    if int(data.cardinality()) == 0:
        raise DataError(f"Expected samples in {name}, got an empty tf.data; add some.")
    batched = _is_batched(name, *(_shape(part, index, data) for index, part in enumerate(spec[:2])))
    batches = (data if batched else data.batch(SAMPLES_AT_ONCE)).map(lambda *sides: tuple(map(_by_name, sides)))
    return collected(name, batches.as_numpy_iterator())


def collected(name: str, batches: Iterable[Any]) -> Samples:
    """Return all batches of (x, y) or (x, y, weights), each an array or a dict of arrays.

    Many inputs become a `StoredArray`.

    Args:
        name: of the part.
        batches: read once.

    Raises:
        DataError: there are none, one is of another form or has more inputs than labels, they differ in shape, labels
            are too large, or reading one fails.
    """
    sides: tuple[dict[str, Collector], ...] = ({}, {}, {})
    first: Any = None
    for number, batch in enumerate(_checked(name, batches)):
        first = batch if first is None else first
        each = zip(_SIDES, batch, first, strict=False)
        named = {what: _same_names(f"{name} {what}", arrays, like) for what, arrays, like in each}
        _check_lengths(name, number, named)
        for collectors, (what, arrays) in zip(sides, named.items(), strict=False):
            for key, array in arrays.items():
                most = None if what == "inputs" else LARGEST_DATA
                collectors.setdefault(key, Collector(f"{name} {what} {key}".rstrip(), most)).append(array)
    if first is None:
        raise DataError(f"Expected samples in {name}, got none; add some.")
    found = [{key: each.result() for key, each in collectors.items()} for collectors in sides]
    x, y, weights = (
        arrays if isinstance(like, dict) else arrays[""] if arrays else None
        for arrays, like in zip(found, (*first, None)[:3], strict=True)
    )
    return x, y, weights


def _same_names(what: str, arrays: Any, like: Any) -> dict[str, np.ndarray]:
    """Return arrays by name, "" for the only one. Raise `DataError` unless the names are those of the first batch."""
    names = [list(each) if isinstance(each, dict) else [] for each in (arrays, like)]
    if set(names[0]) != set(names[1]):
        came, expected = (", ".join(map(str, each)) or "one array" for each in names)
        raise DataError(f"Expected {what} in every batch as in the first, {expected}; got {came}. Give each batch all.")
    named = arrays if isinstance(arrays, dict) else {"": arrays}
    if nested := [key for key, each in named.items() if isinstance(each, dict | list | tuple) or each is None]:
        raise DataError(
            f"Expected {what} as an array, or a dict with an array for each name, got {type(named[nested[0]]).__name__}"
            f"{f' for {nested[0]!r}' if nested[0] else ''}; give each array a name of its own."
        )
    return {str(key): np.asarray(each) for key, each in named.items()}


def _check_lengths(name: str, number: int, sides: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Raise `DataError` unless all arrays of batch `number` have as many samples, or later ones would be shifted."""
    named = {f"{what} {key}".rstrip(): array for what, arrays in sides.items() for key, array in arrays.items()}
    if single := [what for what, array in named.items() if not array.ndim]:
        raise DataError(
            f"Expected an axis of samples in every array of a batch, got one value as {single[0]} in batch {number:,} "
            f"of {name} (the first is 0); give each sample its own."
        )
    if len({len(array) for array in named.values()}) > 1:
        came = ", ".join(f"{len(array):,} {what}" for what, array in named.items())
        raise DataError(
            f"Expected equally many inputs and labels in every batch of {name}, got {came} in batch {number:,} (the "
            "first is 0); pair them up."
        )


def numbered(
    name: str, items: Iterable[Any], samples: Callable[[Any], int] = lambda item: 1
) -> Iterator[tuple[int, Any]]:
    """Yield each item after the number of samples before it; an error of the iteration says this number.

    Args:
        name: of the part.
        items: rows or batches.
        samples: returns how many an item has.

    Raises:
        DataError: iterating fails.
    """
    iterator, count = iter(items), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"Expected {name} samples of one shape until the end, got an error after {count:,} samples: "
                f"{reason_of(error)}; correct their source."
            ) from error
        yield count, item
        count += samples(item)


def _checked(name: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield `batches` as tuples of arrays, or of dicts of them. Raise `DataError` for one of another form."""
    sides = 0
    for count, batch in numbered(name, batches, lambda batch: count_samples(_by_number(batch[0]))):
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3) or len(batch) != (sides or len(batch)):
            came = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
            raise DataError(
                f"Expected {name} as batches of (x, y) or (x, y, weights), all of one form, got {came} after {count:,} "
                "samples; correct the pipeline."
            )
        sides = len(batch)
        yield tuple(_by_number(side) for side in batch)


def _by_number(side: Any) -> Any:
    """Return a list of arrays, of several inputs or outputs, by their numbers; other values unchanged."""
    several = isinstance(side, list | tuple) and side and all(hasattr(each, "shape") for each in side)
    return {str(number): each for number, each in enumerate(side)} if several else side


def is_batches(source: Any) -> bool:
    """Return whether `source` gives batches by number: a PyDataset of Keras, or a Sequence of tf_keras."""
    counted = hasattr(type(source), "num_batches") or hasattr(source, "__len__")
    return counted and all(hasattr(source, name) for name in ("__getitem__", "on_epoch_end"))


def read_batches(name: str, source: Any) -> Samples:
    """Read a PyDataset of batches (x, y) or (x, y, weights) once, in their order; large inputs go into a file.

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


def _by_name(side: Any) -> Any:
    """Return the tensors of a tuple by their numbers; a tensor or a dict unchanged."""
    return {str(number): each for number, each in enumerate(side)} if isinstance(side, tuple) else side


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
