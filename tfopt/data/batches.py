"""From arrays to a `tf.data.Dataset` of batches, without a copy of the arrays in TensorFlow."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

    from tfopt.data.augmentation import Augmentation
    from tfopt.data.dataset import Split


def make_batches(
    split: Split,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    augment: Augmentation | None,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """See `Dataset.batches`.

    Only (epoch, step) travels through tf.data; each batch is gathered from the arrays and scaled by NumPy, so
    a set of any size costs no second copy. The order of an epoch is a function of seed and epoch alone:
    neither `tf.random.set_seed` nor a second iterator on the same data set can change it.
    """
    import tensorflow as tf

    steps = count_steps(len(split), batch_size, drop_remainder=drop_remainder)
    if seed < 0:
        raise DataError(f"Expected a seed of 0 or above, got {seed}.")
    if augment is not None and split.inputs.ndim != 4:
        raise DataError(
            f"Augmentation expects images (height, width, channels), got inputs of shape "
            f"{split.inputs.shape[1:]}; leave augment out for this data."
        )
    epochs = itertools.count()

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        samples = len(split)
        return np.random.default_rng([seed, epoch]).permutation(samples) if shuffle else np.arange(samples)

    def gather(epoch: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = order(int(epoch))[step * batch_size : (step + 1) * batch_size]
        return split.x(chosen), split.y(chosen)

    def batch(epoch: tf.Tensor, step: tf.Tensor) -> tuple[Any, Any]:
        x, y = tf.numpy_function(gather, (epoch, step), (tf.float32, split.labels.dtype))
        rows = batch_size if drop_remainder else None
        x.set_shape((rows, *split.inputs.shape[1:]))
        y.set_shape((rows, *split.labels.shape[1:]))
        return (x if augment is None else augment.apply(x, tf.stack((seed, epoch * 2**32 + step)))), y

    def next_epoch() -> np.ndarray:
        return np.array(next(epochs), np.int64)

    started = tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(next_epoch, (), tf.int64))
    numbered = started.flat_map(lambda epoch: tf.data.Dataset.range(steps).map(lambda step: (epoch, step)))
    batches = numbered.map(batch, num_parallel_calls=2, deterministic=True)
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def count_steps(samples: int, batch_size: int, *, drop_remainder: bool = False) -> int:
    """Batches in one epoch; raises `DataError` for a batch size that makes none."""
    if batch_size < 1:
        raise DataError(f"Expected a batch_size of 1 or above, got {batch_size}.")
    if not drop_remainder:
        return -(-samples // batch_size)
    if samples < batch_size:
        raise DataError(
            f"Expected at least one full batch of {batch_size}, got {samples} samples; pass a smaller "
            "batch_size or drop_remainder=False."
        )
    return samples // batch_size
