"""Forms of operations on categories that LiteRT lacks: counting them, and looking integers up in a table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def counted(categories: Any, size: Any, weights: Any, *, binary: bool) -> Any:
    """Return how often each of `size` categories occurs along the last axis, or with `binary` whether it does.

    None if `size` is not constant.
    """
    import tensorflow as tf

    depth = _depth(size)
    if depth is None:
        return None
    hot = tf.one_hot(categories, depth, dtype=weights.dtype)
    if weights.shape.num_elements() != 0:
        hot *= weights[..., tf.newaxis]
    return (tf.reduce_max if binary else tf.reduce_sum)(hot, axis=-2)


def _depth(size: Any) -> int | None:
    """Return the constant n of `size`, which Keras computes as min(n, max(n, 1 + the largest category))."""
    import tensorflow as tf

    known = tf.get_static_value(size)
    if known is None and size.op.type == "Minimum" and size.op.inputs[1].op.type == "Maximum":
        most, least = (tf.get_static_value(op.inputs[0]) for op in (size.op, size.op.inputs[1].op))
        known = most if most == least else None
    return None if known is None else int(known)


@contextmanager
def compared_lookups() -> Iterator[None]:
    """Look integers up by comparing them with all keys of their table, which a file cannot hold, in the block.

    It replaces the function that all tables of TensorFlow call: a traced operation has captured the table already.
    """
    from tensorflow.python.ops import gen_lookup_ops

    original: Callable[..., Any] = gen_lookup_ops.lookup_table_find_v2

    def find(table_handle: Any, keys: Any, default_value: Any, name: Any = None) -> Any:
        found = _found(table_handle, keys, default_value)
        return original(table_handle, keys, default_value, name=name) if found is None else found

    gen_lookup_ops.lookup_table_find_v2 = find
    try:
        yield
    finally:
        gen_lookup_ops.lookup_table_find_v2 = original


def _found(table: Any, keys: Any, default: Any) -> Any:
    """Return the value of each of the integers `keys`; None for other tables, or if it may be less than `default`."""
    import tensorflow as tf

    if tf.executing_eagerly() or not isinstance(table, tf.__internal__.EagerTensor) or keys.dtype != tf.int64:
        return None
    rows = _rows(table) if default.dtype == tf.int64 else None
    if rows is None or not len(rows[0]) or rows[1].min() <= tf.get_static_value(default):
        return None
    known, values = (tf.constant(row) for row in rows)
    return tf.reduce_max(tf.where(keys[..., tf.newaxis] == known, values, default), axis=-1)


def _rows(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and values of a table from integers to integers, by its handle."""
    import tensorflow as tf

    with tf.init_scope():
        found = tf.raw_ops.LookupTableExportV2(table_handle=table, Tkeys=tf.int64, Tvalues=tf.int64)
    return found.keys.numpy(), found.values.numpy()
