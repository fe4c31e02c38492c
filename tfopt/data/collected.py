"""Samples that come one after the other or in batches, collected in arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfopt.base.limits import LARGEST_DATA
from tfopt.base.words import reason_of
from tfopt.data.arrays_by_name import count_samples, refuse_masked
from tfopt.data.long_read import LongRead
from tfopt.data.stored import Collector
from tfopt.data.text import as_strings
from tfopt.errors import DataError

Samples = tuple[Any, Any, Any]
"""Inputs, labels and weights, each an array or a dict of arrays; without weights these are None."""
Place = Callable[[Exception, int], int]
"""Returns the number of the sample at which an error came, from the error and the number of samples read before."""
_SIDES = ("inputs", "labels", "weights")


def _after_those_read(error: Exception, count: int) -> int:
    del error
    return count


def collected(name: str, batches: Iterable[Any], *, place: Place = _after_those_read, ends: bool = True) -> Samples:
    """Return all batches of (x, y) or (x, y, weights), each an array or a dict of arrays.

    Many inputs become a `StoredArray`.

    Args:
        name: of the part.
        batches: read once.
        place: says at which sample an error of the iteration came.
        ends: whether it is known that the batches end; else only so many are read, as `LongRead` says.

    Raises:
        DataError: there are none, one is of another form or has more inputs than labels, they differ in shape, labels
            are too large, or reading one fails.
    """
    sides: tuple[dict[str, Collector], ...] = ({}, {}, {})
    first: Any = None
    progress = LongRead(name, ends=ends)
    for number, batch in enumerate(_checked(name, batches, place)):
        first = batch if first is None else first
        each = zip(_SIDES, batch, first, strict=False)
        named = {what: _same_names(f"{name} {what}", arrays, like) for what, arrays, like in each}
        _check_lengths(name, number, named)
        for collectors, (what, arrays) in zip(sides, named.items(), strict=False):
            for key, array in arrays.items():
                most = None if what == "inputs" else LARGEST_DATA
                collectors.setdefault(key, Collector(f"{name} {what} {key}".rstrip(), most)).append(
                    as_strings(f"{name} {what}", array, progress.samples)
                )
        progress.add([array for arrays in named.values() for array in arrays.values()])
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
            f"{f' for {nested[0]!r}' if nested[0] else ''}; give each array its own name."
        )
    for each in named.values():
        refuse_masked(what, each)
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
    name: str,
    items: Iterable[Any],
    samples: Callable[[Any], int] = lambda item: 1,
    place: Place = _after_those_read,
) -> Iterator[tuple[int, Any]]:
    """Yield each item after the number of samples before it; an error of the iteration says this number.

    Args:
        name: of the part.
        items: rows or batches.
        samples: returns how many an item has.
        place: says at which sample an error came.

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
                f"Expected {name} samples of one shape until the end, got an error after {place(error, count):,} "
                f"samples: {reason_of(error)}; correct their source."
            ) from error
        yield count, item
        count += samples(item)


def _checked(name: str, batches: Iterable[Any], place: Place) -> Iterator[Any]:
    """Yield `batches` as tuples of arrays, or of dicts of them. Raise `DataError` for one of another form."""
    sides = 0
    for count, batch in numbered(name, batches, lambda batch: count_samples(_by_number(batch[0])), place):
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
