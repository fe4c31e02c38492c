"""Data sets that are read batch by batch, by number, as tf.data."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError


def stream_batches(arguments: dict[str, Any]) -> None:
    """Replace a `keras.utils.PyDataset`, or a Sequence of tf_keras, among the `arguments` of a `fit` by a tf.data one.

    Raises:
        DataError: it has no end, no batch, or batches that are not arrays.
    """
    import keras

    data = arguments["x"]
    if isinstance(data, keras.utils.PyDataset | tf_keras().utils.Sequence):
        arguments["x"] = _as_dataset(data, shuffle=arguments.get("shuffle", True) is not False)
        arguments["shuffle"] = False  # of single samples, which tf.data does not offer


def _as_dataset(data: Any, *, shuffle: bool) -> Any:
    import tensorflow as tf

    count = data.num_batches if hasattr(data, "num_batches") else len(data)
    if not count:
        raise DataError(f"{type(data).__name__} has {'no end' if count is None else 'no batch'}. Give it a length.")
    rng = np.random.default_rng(0)

    def batches() -> Iterator[Any]:
        _tell(data, "on_epoch_begin")
        for number in rng.permutation(count) if shuffle else range(count):
            yield _arrays(data[int(number)])
        _tell(data, "on_epoch_end")

    signature = tf.nest.map_structure(_spec, _arrays(data[0]), _arrays(data[count - 1]))
    made = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(count)).prefetch(1)


def _arrays(batch: Any) -> tuple[Any, ...]:
    """Return a batch as a tuple of arrays, tuples and dicts, as tf.data has it."""
    parts = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
    return tuple(_array(part) for part in parts if part is not None)


def _array(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _array(value) for key, value in values.items()}
    if isinstance(values, tuple) or (isinstance(values, list) and all(hasattr(each, "__array__") for each in values)):
        return tuple(map(_array, values))
    array = np.asarray(values)
    if array.dtype == object:
        raise DataError(f"Expected batches of arrays; got {type(values).__name__}. Convert them in __getitem__.")
    return array


def _spec(first: np.ndarray, last: np.ndarray) -> Any:
    """Return the form of batches of any size; axes that differ between the first and the last batch are free."""
    import tensorflow as tf

    inner = (ours if ours == theirs else None for ours, theirs in zip(first.shape[1:], last.shape[1:], strict=True))
    return tf.TensorSpec((None, *inner), first.dtype)


def _tell(data: Any, event: str) -> None:
    getattr(data, event, lambda: None)()
