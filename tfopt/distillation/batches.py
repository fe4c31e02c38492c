"""Data sets that are read batch by batch, by number, as tf.data."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfopt.base.keras_compat import keras_of, tf_keras
from tfopt.errors import DataError

_FORM = "Expected batches (x, y) or (x, y, sample_weight) of arrays, all of one form"


def stream_batches(arguments: dict[str, Any], student: Any) -> None:
    """Replace a `keras.utils.PyDataset`, or a Sequence of tf_keras, among the `arguments` of a `fit` by a tf.data one.

    Args:
        arguments: by name; changed in place.
        student: the model. Axes of its inputs with a free size may differ between batches.

    Raises:
        DataError: it has no end, no batch, or batches that are not arrays of one form.
    """
    import keras

    data = arguments["x"]
    if not isinstance(data, keras.utils.PyDataset | tf_keras().utils.Sequence):
        return
    made = _as_dataset(data, shuffle=arguments.get("shuffle", True) is not False, student=student)
    arguments["x"] = made.repeat() if arguments.get("steps_per_epoch") else made
    arguments["shuffle"] = False  # of single samples, which tf.data does not offer
    arguments["callbacks"] = [*_listed(arguments.get("callbacks")), _epochs_told(data, keras_of(student))]


def _listed(callbacks: Any) -> list[Any]:
    inner = getattr(callbacks, "callbacks", callbacks) or []
    return list(inner) if isinstance(inner, list | tuple) else [inner]


def _epochs_told(data: Any, api: Any) -> Any:
    """Return a callback that tells `data` when epochs begin and end."""

    def tell(event: str) -> None:
        getattr(data, event, lambda: None)()  # a Sequence of tf_keras knows only the end

    return api.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs=None: tell("on_epoch_begin"),
        on_epoch_end=lambda epoch, logs=None: tell("on_epoch_end"),
    )


def _as_dataset(data: Any, *, shuffle: bool, student: Any) -> Any:
    import tensorflow as tf

    count = _count(data)
    first = _arrays(data[0])
    signature = tf.nest.map_structure(_spec(student), first)
    rng = np.random.default_rng(0)

    def batches() -> Iterator[Any]:
        for number in rng.permutation(count) if shuffle else range(count):
            batch = _arrays(data[int(number)])
            try:
                tf.nest.map_structure(_require_form, signature, batch)
            except (TypeError, ValueError) as error:
                raise DataError(f"{_FORM}; batch {number} of {type(data).__name__} differs: {error}.") from error
            yield batch

    made = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(count)).prefetch(1)


def _count(data: Any) -> int:
    try:
        count = data.num_batches if hasattr(data, "num_batches") else len(data)
    except NotImplementedError:
        count = None
    if not count:
        what = "no end" if count is None else "no batch"
        raise DataError(f"{type(data).__name__} has {what}: give it a length (__len__) of 1 or more.")
    return int(count)


def _arrays(batch: Any) -> tuple[Any, ...]:
    """Return a batch as a tuple of arrays, tuples and dicts, as tf.data has it, without what is None at its end."""
    parts = list(batch) if isinstance(batch, list | tuple) else [batch]
    while parts and parts[-1] is None:
        parts.pop()
    if not 1 <= len(parts) <= 3 or _nones(parts):
        raise DataError(f"{_FORM}; got {len(parts)} parts, {_nones(parts)} of them None.")
    return tuple(map(_array, parts))


def _nones(parts: list[Any]) -> int:
    return sum(part is None for part in parts)


def _array(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _array(value) for key, value in values.items()}
    if isinstance(values, list | tuple) and values and all(getattr(each, "ndim", 0) for each in values):
        return tuple(map(_array, values))
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{_FORM}; {error}.") from error
    if array.dtype == object:
        raise DataError(f"{_FORM}; got {type(values).__name__} of objects. Convert them in __getitem__.")
    return array


def _spec(student: Any) -> Any:
    """Return the function from an array to the form of batches like it: of any size, and free where `student` is."""
    import tensorflow as tf

    inputs = getattr(student, "inputs", None) or ()
    free = any(size is None for tensor in inputs for size in tuple(tensor.shape)[1:])

    def spec(array: np.ndarray) -> Any:
        inner = (None,) * (array.ndim - 1) if free else array.shape[1:]
        return tf.TensorSpec((None, *inner), array.dtype)

    return spec


def _require_form(spec: Any, array: np.ndarray) -> None:
    if not spec.shape.is_compatible_with(array.shape):
        raise ValueError(f"expected the shape {spec.shape}, got {array.shape}")
