"""Conversion of arrays to a `tf.data.Dataset` of batches, without a copy of the arrays in TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt.data.arrays_by_name import leaves, rows
from tfopt.data.position import Position
from tfopt.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

    from tfopt.data.random_changes import RandomChanges
    from tfopt.data.samples import Split


# Separates the random numbers of augmentation from those of the order.
AUGMENTATION = 1
# The last line of a traceback, in the message of an error of TensorFlow.
_UNREAD = re.compile(rf"^{re.escape(DataError.__module__)}\.{DataError.__name__}: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Views:
    """A limited number of augmented views per sample, so that data can be precomputed per view and batched with it.

    Attributes:
        number: the number of views; epoch e shows view e modulo this.
        seed: the seed of the augmentation.
        key: batches are ({"inputs": x, key: arrays by name}, y).
        beside: maps (view, indices) to arrays (n, ...) by name.
    """

    number: int
    seed: int
    key: str
    beside: Callable[[int, np.ndarray], dict[str, np.ndarray]]


def make_batches(
    split: Split,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    augment: RandomChanges | None,
    drop_remainder: bool,
    masks: bool = False,
    views: Views | None = None,
    position: Position | None = None,
) -> tf.data.Dataset:
    """Implement `Dataset.batches`.

    Only (epoch, step) passes through tf.data; NumPy gathers and scales each batch from the arrays, so no set costs a
    second copy. The order of an epoch depends only on seed and epoch: neither `tf.random.set_seed` nor a second
    iterator on the same data set changes it. The augmentation of a sample depends only on its index and the view, which
    is the epoch or comes from `views`. Labels that are `masks`, one for each place, move along.
    """
    import tensorflow as tf

    steps = count_steps(len(split), batch_size, drop_remainder=drop_remainder)
    if seed < 0:
        raise DataError(f"Expected a seed of 0 or above, got {seed}.")
    drawn = _drawn(split, augment, views.seed if views else seed)
    if augment:
        (_check_masks if masks else _check_targets)(split)
    position = position or Position()
    begins, share = position.begins(), position.share

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        samples = len(split)
        return np.random.default_rng([seed, epoch]).permutation(samples) if shuffle else np.arange(samples)

    # TensorFlow casts and scales faster than NumPy, without Python's lock.
    in_graph = split.preprocessing.in_graph and not isinstance(split.inputs, dict)

    def gathered(view: int, chosen: np.ndarray) -> Any:
        changes = drawn(view)[chosen]
        if in_graph:
            stored = rows(split.inputs, chosen)
            x = augment.change_stored(stored, changes) if augment else stored
        else:
            x = split.changed(chosen, augment, changes) if augment else split.x(chosen)
        weights = {} if split.weights is None else {"": split.w(chosen)}
        return x, split.y(chosen), changes, views.beside(view, chosen) if views else {}, weights

    one = gathered(0, np.arange(1))

    def gather(epoch: np.ndarray, number: np.ndarray) -> Any:
        chosen = order(int(epoch))[share.rows(len(split), batch_size, int(number))]
        return tf.nest.flatten(gathered(int(epoch) % views.number if views else int(epoch), chosen))

    def batch(epoch: tf.Tensor, number: tf.Tensor) -> tuple[Any, ...]:
        tensors = tf.numpy_function(gather, (epoch, number), [array.dtype for array in tf.nest.flatten(one)])
        for tensor, array in zip(tensors, tf.nest.flatten(one), strict=True):
            tensor.set_shape((batch_size if drop_remainder else None, *array.shape[1:]))
        x, y, moves, more, weights = tf.nest.pack_sequence_as(one, tensors)
        x = split.preprocessing.apply_in_graph(x) if in_graph else x
        if augment:
            x, y = augment.apply(x, moves), augment.apply_to_masks(y, moves) if masks else y
        return ({views.key: more, "inputs": x} if views else x), y, *weights.values()

    started = tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(begins, (), (tf.int64, tf.int64)))
    numbered = started.flat_map(
        lambda epoch, first: tf.data.Dataset.range(first, steps * share.own).map(lambda number: (epoch, number))
    )
    batches = numbered.map(batch, num_parallel_calls=2, deterministic=True)
    if share.of == 1:
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    return batches.prefetch(2)


@contextmanager
def naming_samples() -> Iterator[None]:
    """Turn the error of TensorFlow for a sample that could not be read back into the `DataError` that it was."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("tensorflow") and (found := _UNREAD.findall(str(error))):
            raise DataError(found[-1]) from error
        raise


def without_weights(batches: Any) -> Any:
    """Return (x, y) batches of those that may be (x, y, weights), a tf.data.Dataset."""
    return batches.map(lambda x, y, *_: (x, y), num_parallel_calls=2, deterministic=True)


def view_inputs(
    split: Split, view: int, batch_size: int, *, seed: int, augment: RandomChanges | None
) -> Iterator[np.ndarray]:
    """Yield the inputs of `split` in order, as `make_batches` shows them in that view, float32 (batch, ...)."""
    import tensorflow as tf

    drawn = _drawn(split, augment, seed)(view)
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        x = split.changed(part, augment, drawn[part]) if augment else split.x(part)
        yield x if augment is None else augment.apply(tf.constant(x), tf.constant(drawn[part])).numpy()


def _check_masks(split: Split) -> None:
    if split.target_shape[:2] != split.shape[:2]:
        raise DataError(
            f"Expected masks in the size of their images {split.shape[:2]} to augment both, got "
            f"{split.target_shape[:2]}; leave augment out for this data."
        )


def _check_targets(split: Split) -> None:
    """Raise `DataError` for targets that would have to move along with the inputs."""
    maps = [array.shape[1:] for array in leaves(split.labels) if array.ndim > 2]
    if split.reconstructs or maps:
        what = "the inputs themselves" if split.reconstructs else f"values of shape {maps[0]}"
        raise DataError(
            "Expected a class, masks or one row of values for each sample to augment, since other targets do not move "
            f"with their inputs, got {what} as targets; leave augment out for this data."
        )


def _drawn(split: Split, augment: RandomChanges | None, seed: int) -> Callable[[int], np.ndarray]:
    """Return a function from view to the augmentation of each sample, float32 (n, columns)."""
    if augment is not None:
        augment.draw(0, split.shape, seed)  # raises if the inputs are of another kind

    @lru_cache(maxsize=2)
    def draw(view: int) -> np.ndarray:
        if augment is None:
            return np.zeros((len(split), 0), np.float32)
        return augment.draw(len(split), split.shape, [seed, view, AUGMENTATION])

    return draw


def count_steps(samples: int, batch_size: int, *, drop_remainder: bool = False) -> int:
    """Return the batches per epoch; raise `DataError` for a batch size that gives none."""
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
