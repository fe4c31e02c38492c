"""Prefetching of a teacher's answers: it answers the next batch while the student learns the current one."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from tfopt.teachers import Answering, Precomputed

BATCHES = 2
"""Number of batches that the teacher answers in parallel: with one, cores idle, as the student finishes first."""
_BITS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


class Prefetcher:
    """A teacher that answers ahead of the step; created with `of`.

    Each answer comes with a checksum of the teacher's weights, so that a step can tell whether they have changed since:
    a callback may average into the teacher, or it may share layers with its student.
    """

    def __init__(self, teacher: Answering, live: Any, takes: Sequence[Any]) -> None:
        self.teacher, self._live, self._takes = teacher, live, takes
        self._variables = tuple(live.graph.variables)  # the graph alone would not keep them alive

    @classmethod
    def of(cls, teacher: Any, x: np.ndarray, y: np.ndarray | None) -> Self | None:
        """Return a prefetcher for batches like x (n, ...) and its labels, or None; `teacher` is resolved.

        None if the teacher must run within the step: under tf.distribute, with a GPU, which tf.data would not use, or
        if it is a function or some of its weights are unknown.
        """
        import tensorflow as tf

        beside_others = any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
        if beside_others or tf.distribute.has_strategy():
            return None
        if not isinstance(teacher, Answering) or isinstance(teacher, Precomputed) or teacher.fingerprint is None:
            return None
        specs = _specs(x, y)
        live = tf.function(teacher.answers, autograph=False).get_concrete_function(*specs)
        reads = [tensor for tensor in live.captured_inputs if tensor.dtype == tf.resource]
        variables = live.graph.variables
        known = len(reads) == len(variables) and all(_is_number(variable.dtype) for variable in variables)
        return cls(teacher, live, specs) if known else None

    def accepts(self, x: np.ndarray, y: np.ndarray | None) -> bool:
        """Return True if it was built for batches like these."""
        return _specs(x, y) == self._takes

    def answers(self, x: Any, y: Any) -> tuple[dict[str, Any], Any]:
        """Return the answers to a batch, in a graph, and the checksums for `is_unchanged`."""
        import tensorflow as tf

        parts = [part for part in (x, y) if part is not None]
        given = [tf.cast(part, spec.dtype) for part, spec in zip(parts, self._takes, strict=True)]
        sums = _sums(self._variables)
        with tf.control_dependencies([sums]):  # anything that changes after this point counts as a change
            return self._live(*given), sums

    def is_unchanged(self, sums: Any) -> Any:
        """Return whether the teacher's weights still match `sums`: a bool, also within a graph."""
        import tensorflow as tf

        return tf.reduce_all(_sums(self._variables) == sums)


def _specs(x: np.ndarray, y: np.ndarray | None) -> list[Any]:
    import tensorflow as tf

    parts = [_as_keras_does(part) for part in (x, y) if part is not None]
    return [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in parts]


def _is_number(dtype: Any) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _sums(variables: Any) -> Any:
    """Return the integer sum of the bits of each variable, which detects even the smallest change: int64 (n,)."""
    import tensorflow as tf

    def total(variable: Any) -> Any:
        value = tf.convert_to_tensor(variable)
        bits = tf.cast(value, tf.uint8) if value.dtype == tf.bool else tf.bitcast(value, _BITS[value.dtype.size])
        # Wrapping around on overflow is harmless. Narrow integers would lose bits.
        return tf.cast(tf.reduce_sum(tf.cast(bits, tf.int32) if bits.dtype.size < 4 else bits), tf.int64)

    return tf.stack([tf.zeros((), tf.int64), *map(total, variables)])


def batches_of(arguments: Mapping[str, Any]) -> Any:
    """Return the arrays among the `arguments` of a `fit` as the `tf.data.Dataset` that Keras builds from them.

    It is reshuffled in each epoch. None if they are not plain arrays, or are to be split or repeated.
    """
    import tensorflow as tf

    columns = [arguments[name] for name in ("x", "y", "sample_weight")]
    while columns[-1] is None:
        columns.pop()
    plain = all(hasattr(column, "shape") and hasattr(column, "dtype") for column in columns)
    if not plain or arguments["validation_split"] or arguments["steps_per_epoch"] or arguments["shuffle"] not in (0, 1):
        return None
    held = [tf.constant(_as_keras_does(np.asarray(column))) for column in columns]
    order = tf.data.Dataset.range(len(held[0]))
    if arguments["shuffle"]:
        order = order.shuffle(len(held[0]))
    return order.batch(arguments["batch_size"] or 32).map(lambda rows: tuple(tf.gather(part, rows) for part in held))


def _as_keras_does(array: np.ndarray) -> np.ndarray:
    """Return floating-point arrays as float32, all others unchanged."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array
