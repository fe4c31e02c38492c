"""Train on mixtures of two samples and their labels (mixup: Zhang et al. 2018, arXiv:1710.09412)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt.data.dataset import Dataset
from tfopt.data.position import Position
from tfopt.errors import RecipeError

if TYPE_CHECKING:
    import tensorflow as tf


def for_mixup(data: Dataset, outputs: int) -> Dataset:
    """Return `data` with labels that can be mixed: one-hot instead of class numbers.

    Args:
        data: the samples.
        outputs: of the model.

    Raises:
        RecipeError: the labels cannot be mixed.
    """
    if data.labels != "sparse":
        return data
    if data.train.labels.ndim > 1 or data.num_classes is None or outputs < data.num_classes:
        raise RecipeError(
            "Training(mixup=...) mixes one-hot labels, one for each output of the model; the data have class numbers "
            f"{data.train.labels.shape[1:]} and the model has {outputs} outputs. Leave mixup out."
        )
    rows = np.eye(outputs, dtype=np.float32)
    train, validation, test = (
        replace(part, labels=rows[part.labels]) for part in (data.train, data.validation, data.test)
    )
    return replace(data, train=train, validation=validation, test=test, labels="one-hot")


def require_no_mixup(alpha: float) -> None:
    """Raise `RecipeError` if a run with a teacher is to mix samples.

    Args:
        alpha: `Training.mixup`.
    """
    if alpha:
        raise RecipeError(
            "A teacher answers samples, not mixtures of them: leave out Training(mixup=...) or the teacher."
        )


def mixed(batches: tf.data.Dataset, alpha: float, seed: int, position: Position | None = None) -> tf.data.Dataset:
    """Return `batches` of (x, y) or (x, y, weights) with each sample mixed with one of its batch, at times with itself.

    Each iteration draws new pairs; the same `seed` gives the same pairs.

    Args:
        batches: x (batch, ...), y (batch, ...) and weights (batch,), float32.
        alpha: of the beta distribution of the share of the other sample, which is at most a half. Small numbers mix
            little; 0.2 is usual.
        seed: of the shares and of the pairs, 0 to 2**32 - 1.
        position: that of `batches`.
    """
    import tensorflow as tf

    begins = (position or Position()).begins()

    def mix(epoch: Any, number: Any, batch: Any) -> Any:
        count, place = tf.shape(batch[1])[:1], number + epoch * 2**32
        gammas = [tf.random.stateless_gamma(count, (seed + turn * 2**32, place), alpha) for turn in (1, 2)]
        share = gammas[0] / tf.maximum(gammas[0] + gammas[1], np.finfo(np.float32).tiny)
        share = tf.minimum(share, 1 - share)
        other = tf.random.experimental.stateless_shuffle(tf.range(count[0]), (seed, place))
        return tuple(_mixed(side, other, share) for side in batch)

    def begin_of(start: Any) -> Any:
        begin = tf.numpy_function(begins, (), (tf.int64, tf.int64))
        return tuple(tf.ensure_shape(number, start.shape) for number in begin)

    def mixtures(epoch: Any, first: Any) -> tf.data.Dataset:
        return batches.enumerate(first).map(
            lambda number, batch: mix(epoch, number, batch), num_parallel_calls=2, deterministic=True
        )

    started = tf.data.Dataset.range(1).map(begin_of).flat_map(mixtures)
    if (number := int(batches.cardinality())) >= 0:
        started = started.apply(tf.data.experimental.assert_cardinality(number))
    return started.prefetch(2)


def _mixed(values: Any, other: Any, share: Any) -> Any:
    import tensorflow as tf

    share = tf.reshape(share, (-1, *(1,) * (len(values.shape) - 1)))
    return values * (1 - share) + tf.gather(values, other) * share
