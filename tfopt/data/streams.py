"""Readers of samples that come one after the other or in batches: tf.data and PyDatasets of Keras."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from tfopt.base.words import counted
from tfopt.data.collected import Samples, collected
from tfopt.errors import DataError

SAMPLES_AT_ONCE = 256
Steps = int | Mapping[str, int]
_UNEQUAL = re.compile(r"and element (\d+) had shape")
"""In the error of tf.data about samples that cannot be batched."""


def is_stream(source: Any) -> bool:
    """Return whether `source` is a tf.data.Dataset, or gives batches by number."""
    return is_tf_data(source) or is_batches(source)


def has_streams(source: Any) -> bool:
    """Return whether `source` is a stream, or a dict in which one is."""
    return any(map(is_stream, source.values())) if isinstance(source, dict) else is_stream(source)


def steps_by_part(steps: Steps | None, names: list[str]) -> dict[str, int | None]:
    """Return the steps to take of each stream.

    Args:
        steps: of all streams, or by the name of the part; None for all that a stream has.
        names: of the parts that are streams.

    Raises:
        DataError: a number is not an integer above 0, or a part is no stream.
    """
    by_part: dict[str, Any] = dict(steps) if isinstance(steps, Mapping) else dict.fromkeys(names, steps)
    if others := [part for part in by_part if part not in names]:
        raise DataError(f"Expected steps for {', '.join(names)}, got some for {others[0]!r}; leave them out.")
    for part, number in by_part.items():
        if number is not None and (not isinstance(number, Integral) or isinstance(number, bool) or number < 1):
            raise DataError(f"Expected steps of {part} as an integer of at least 1, got {number!r}.")
    return {name: None if (number := by_part.get(name)) is None else int(number) for name in names}


def read_stream(name: str, source: Any, steps: int | None = None) -> Samples:
    """Return what `read_tf_data` or `read_batches` does."""
    return read_tf_data(name, source, steps) if is_tf_data(source) else read_batches(name, source, steps)


def in_arrays(source: Any) -> dict[str, Any]:
    """Return a stream, or a dict in which some parts are, as a dict of parts that are arrays: each stream is read once.

    Raises:
        DataError: as `read_stream`.
    """
    parts = {"train": source} if is_stream(source) else source
    return {
        name: tuple(side for side in read_stream(name, part) if side is not None) if is_stream(part) else part
        for name, part in parts.items()
    }


def is_tf_data(source: Any) -> bool:
    """Return whether `source` is a tf.data.Dataset, without importing TensorFlow."""
    return hasattr(source, "element_spec") and hasattr(source, "cardinality")


def stream_notes(names: list[str]) -> tuple[str, ...]:
    """Return notes about the parts that came in batches."""
    if not names:
        return ()
    return (f"{', '.join(names)} read once from their batches, including what the pipeline does to the values",)


def read_tf_data(name: str, data: Any, steps: int | None = None) -> Samples:
    """Read a tf.data.Dataset of (x, y) or (x, y, weights) once, batched or not.

    x, y and weights may be dicts or tuples. Large inputs go into a temporary file.

    Args:
        name: of the part.
        data: finite, unless `steps` are given.
        steps: the elements to take, batches or, if it is not batched, samples; None for all.

    Raises:
        DataError: other elements, an infinite cardinality, fewer elements than `steps`, samples of different shapes, an
            error of the pipeline, or shapes that do not show whether the data is batched.
    """
    import tensorflow as tf

    spec = data.element_spec
    if not (isinstance(spec, tuple) and len(spec) in (2, 3) and all(_is_flat(part) for part in spec)):
        raise DataError(
            f"Expected {name} as tf.data of (x, y) or (x, y, weights), each a tensor or several in a dict or tuple, "
            f"got elements {spec}; map it to such pairs."
        )
    stated = int(data.cardinality())
    if stated == tf.data.INFINITE_CARDINALITY and steps is None:
        raise DataError(
            f"Expected {name} as tf.data with an end, got an infinite one; say how many batches to take, "
            "load_data(..., steps=N), or use take(n)."
        )
    if stated == 0:
        raise DataError(f"Expected samples in {name}, got an empty tf.data; add some.")
    if stated > 0:
        _check_steps(name, steps, stated)
    texts = tf.nest.flatten(spec[0])[0].dtype == tf.string
    batched = _is_batched(name, texts, *(_shape(part, index, data) for index, part in enumerate(spec[:2])))
    count = _Count()
    data = count.through(data if steps is None else data.take(steps))
    batches = (data if batched else data.batch(SAMPLES_AT_ONCE)).with_options(count.exact())

    def place(error: Exception, before: int) -> int:
        unequal = _UNEQUAL.search(str(error))
        return before if batched else before + int(unequal[1]) if unequal else count.passed

    read = collected(
        name, batches.as_numpy_iterator(), place=place, ends=stated != tf.data.UNKNOWN_CARDINALITY or steps is not None
    )
    _check_steps(name, steps, count.passed)
    return read


def _check_steps(name: str, steps: int | None, found: int) -> None:
    """Raise `DataError` if a stream of `found` elements has fewer than `steps`."""
    if steps is not None and found < steps:
        raise DataError(
            f"Expected {counted(steps, 'step')} of {name}, got {found:,}, where it ends; lower steps or leave it out."
        )


class _Count:
    """Counts the elements of a tf.data pipeline that come without an error, also where they are batched afterwards."""

    def __init__(self) -> None:
        import tensorflow as tf

        with tf.device("CPU"):
            self._passed = tf.Variable(0, trainable=False, dtype=tf.int64)

    def through(self, data: Any) -> Any:
        """Return `data` with its elements counted, and tuples of tensors by their numbers."""
        import tensorflow as tf

        def one(*sides: Any) -> Any:
            with tf.control_dependencies([self._passed.assign_add(1)]):
                return tf.nest.map_structure(tf.identity, tuple(map(_by_name, sides)))

        return data.map(one)

    @staticmethod
    def exact() -> Any:
        """Return options without which elements behind an error would be counted, since they are read ahead."""
        import tensorflow as tf

        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        options.experimental_optimization.map_and_batch_fusion = False
        return options

    @property
    def passed(self) -> int:
        """The number of elements so far."""
        return int(self._passed.numpy())


def is_batches(source: Any) -> bool:
    """Return whether `source` gives batches by number: a PyDataset of Keras, or a Sequence of tf_keras."""
    counted = hasattr(type(source), "num_batches") or hasattr(source, "__len__")
    return counted and all(hasattr(source, name) for name in ("__getitem__", "on_epoch_end"))


def read_batches(name: str, source: Any, steps: int | None = None) -> Samples:
    """Read a PyDataset of batches (x, y) or (x, y, weights) once, in their order; large inputs go into a file.

    Raises:
        DataError: it has no end and there are no `steps`, it has fewer batches than these, or as `collected`.
    """
    number = source.num_batches if hasattr(type(source), "num_batches") else len(source)
    if number is None and steps is None:
        raise DataError(
            f"Expected {name} as batches with an end, got a PyDataset without; say how many to take, "
            "load_data(..., steps=N), or give it a num_batches."
        )
    if number is not None:
        _check_steps(name, steps, number)
    return collected(name, (source[place] for place in range(number if steps is None else steps)))


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


def _is_batched(name: str, texts: bool, x: tuple[int | None, ...], y: tuple[int | None, ...]) -> bool:
    """Return whether the data is batched: x and y then share the leading axis, which single samples rarely do.

    A single sample of `texts` has no axis.
    """
    if not x or not y or x[0] != y[0]:
        return False
    if len(x) >= 4 or texts:
        return True
    if x[:2] == y[:2] == (None, None) and len(x) == 3:
        raise DataError(
            f"Cannot tell whether {name} is batched, as x {x} and y {y} may be single images with masks, or batches of "
            "sequences; batch single samples, or state the length of the sequences, e.g. with tf.ensure_shape."
        )
    if x[0] is None:
        return True
    if len(x) == 1:
        return False
    raise DataError(
        f"Cannot tell whether {name} is batched, as x {x} and y {y} have the same first axis; batch it "
        "without drop_remainder, so that this axis is None."
    )
