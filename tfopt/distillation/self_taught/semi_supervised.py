"""Partly labeled data: separate labeled and unlabeled samples, and mix both in every batch.

In the batches made here, x is {"inputs": labeled samples, UNLABELED: the others} and y has labels alone, so that
losses, metrics and class weights see labeled samples only, whatever they are.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tfopt.data.position import Position
from tfopt.errors import DataError

UNLABELED = "tfopt_unlabeled"
OTHER_VIEW = "tfopt_view"
"""All samples of a batch, labeled ones first, as the teacher is to see them."""
LOOK = 64
DEFAULT_BATCH = 32


def is_mixed(dataset: Any) -> bool:
    """Return True for batches that this file made."""
    spec = dataset.element_spec
    first = spec[0] if isinstance(spec, tuple) else spec
    return isinstance(first, dict) and UNLABELED in first


def first_inputs(x: Any) -> Any:
    """Return a few inputs of arrays or of a dataset, as an array."""
    if hasattr(x, "element_spec"):
        element = next(iter(x.take(1)))
        x = element[0] if isinstance(element, tuple) else element
        if isinstance(x, dict):
            x = np.concatenate([np.asarray(x["inputs"]), np.asarray(x[UNLABELED])])
    return np.asarray(x[:LOOK])


def of_dataset(dataset: Any) -> Any:
    """Return batches (x, y[, sample_weight]) with labels of -1 or NaN, x an input or two views, as mixed batches.

    Raises DataError for batches without labels.
    """
    import tensorflow as tf

    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        raise DataError("Expected batches (x, y), with labels of -1 or NaN for unlabeled samples; got x alone.")

    def split(x: Any, y: Any, *rest: Any) -> Any:
        views = x if isinstance(x, tuple | list) else (x,)
        has = tf.logical_not(_unlabeled_rows(y))
        parted = [(tf.boolean_mask(view, has), tf.boolean_mask(view, ~has)) for view in views]
        mixed = {"inputs": parted[0][0], UNLABELED: parted[0][1]}
        if len(views) > 1:
            mixed[OTHER_VIEW] = tf.concat(parted[1], axis=0)
        return (mixed, tf.boolean_mask(y, has), *(tf.boolean_mask(part, has) for part in rest))

    if isinstance(spec[0], tuple | list) and len(spec[0]) != 2:
        raise DataError(f"Expected one input, or two views of it; got {len(spec[0])} parts of x.")
    return dataset.map(split, num_parallel_calls=2, deterministic=True)


def _unlabeled_rows(y: Any) -> Any:
    """Return which labels are missing, (batch,) bool: integers of -1, or NaN."""
    import tensorflow as tf

    marked = tf.math.is_nan(y) if y.dtype.is_floating else tf.equal(y, tf.cast(-1, y.dtype))
    return tf.reduce_any(tf.reshape(marked, (tf.shape(y)[0], -1)), axis=1)


def of_arrays(arguments: dict[str, Any], extra: Any, share: float) -> None:
    """Turn the `arguments` of a `fit` on arrays, and `extra` unlabeled inputs, into those of one on mixed batches.

    Nothing changes where every sample is labeled. Raises DataError for arrays that do not fit together.
    """
    x, y, weights = arguments["x"], arguments["y"], arguments["sample_weight"]
    if y is None:
        raise DataError("Expected labels y, with -1 or NaN for unlabeled samples; got None.")
    x, y = _single(x), _single(y)
    has = ~_unlabeled(y)
    if has.all() and extra is None:
        return
    weights = None if weights is None else np.asarray(weights)[has]
    others = x[~has] if extra is None else np.concatenate([x[~has], _like(extra, x)])
    x, y = x[has], y[has]
    if split := arguments["validation_split"]:
        x, y, weights, arguments["validation_data"] = _held_out(x, y, weights, split, arguments["validation_data"])
    if not len(x) or not len(others):
        raise DataError(f"Expected labeled and unlabeled samples, got {len(x)} and {len(others)}.")
    batch = arguments["batch_size"] or DEFAULT_BATCH
    if batch < 2:
        raise DataError("A batch holds labeled and unlabeled samples; pass a batch_size of 2 or more.")
    labeled = labeled_per_batch(len(x), len(others), batch, share)
    whole = max(math.ceil(len(x) / labeled), math.ceil(len(others) / (batch - labeled)))
    kept = [x, y] if weights is None else [x, y, weights]

    def gather(step: int, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, ...]:
        del step
        return others[second], *(array[first] for array in kept)

    arguments["x"] = mixed_batches(
        gather, len(x), len(others), batch, labeled,
        steps=arguments["steps_per_epoch"] or whole, seed=np.random.randint(2**31) if arguments["shuffle"] else None,
    ).map(lambda second, first, *rest: ({"inputs": first, UNLABELED: second}, *rest))  # fmt: skip
    arguments.update(
        y=None, sample_weight=None, batch_size=None, validation_split=0.0, steps_per_epoch=None, shuffle=False
    )
    arguments["validation_batch_size"] = arguments["validation_batch_size"] or batch


def _single(array: Any) -> np.ndarray:
    """Return an array, float64 as float32, as Keras takes arrays."""
    found = np.asarray(array)
    return found.astype(np.float32) if found.dtype == np.float64 else found


def _unlabeled(y: np.ndarray) -> np.ndarray:
    rows = y.reshape(len(y), -1)
    if y.dtype.kind != "f":
        return np.asarray((rows == -1).any(axis=1))
    missing = np.isnan(rows)
    partly = np.flatnonzero(missing.any(axis=1) & ~missing.all(axis=1))
    if len(partly):
        raise DataError(
            f"Expected rows of labels, or of NaN for an unlabeled sample; {len(partly)} rows have both, the first at "
            f"index {partly[0]}."
        )
    return np.asarray(missing.all(axis=1))


def _like(extra: Any, x: np.ndarray) -> np.ndarray:
    found = np.asarray(extra)
    if found.shape[1:] != x.shape[1:]:
        raise DataError(f"Expected unlabeled samples of shape {x.shape[1:]}, as in x; got {found.shape[1:]}.")
    return found.astype(x.dtype, copy=False)


def _held_out(x: np.ndarray, y: np.ndarray, weights: Any, share: float, given: Any) -> tuple[Any, ...]:
    """Return training and validation data as Keras splits them: the last samples are for validation."""
    first = math.floor(len(x) * (1 - share))
    if given is not None:
        return x, y, weights, given
    if weights is None:
        return x[:first], y[:first], None, (x[first:], y[first:])
    return x[:first], y[:first], weights[:first], (x[first:], y[first:], weights[first:])


def labeled_per_batch(labeled: int, unlabeled: int, batch: int, share: float) -> int:
    """Return the number of labeled samples per batch: `share` of it, or the data's own share if larger."""
    if not unlabeled:
        return batch
    return min(max(round(batch * max(share, labeled / (labeled + unlabeled))), 1), batch - 1)


def mixed_batches(
    gather: Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, ...]],
    first: int,
    second: int,
    batch: int,
    of_first: int,
    *,
    steps: int,
    seed: int | None,
    position: Position | None = None,
) -> Any:
    """Return a `tf.data.Dataset` of what `gather` gives: one epoch of `steps` batches per iteration.

    `gather(step, indices, indices)` gets the number of the batch, counted over all epochs, `of_first` numbers below
    `first` and the rest of the batch below `second`. Each kind comes in random order, all of it before any again;
    the order is a function of `seed` and the step alone (None: in order). `position` says where iterations begin.
    """
    import tensorflow as tf

    chosen = (_chooser(first, of_first, seed, 0), _chooser(second, batch - of_first, seed, 1))

    def one(step: np.ndarray) -> tuple[np.ndarray, ...]:
        return gather(int(step), *(choose(int(step)) for choose in chosen))

    sample = gather(0, *(choose(0) for choose in chosen))

    def load(step: Any) -> Any:
        tensors = tf.numpy_function(one, (step,), [part.dtype for part in sample])
        for tensor, part in zip(tensors, sample, strict=True):
            tensor.set_shape(part.shape)
        return tuple(tensors)

    begins = (position or Position()).begins()
    started = tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(begins, (), (tf.int64, tf.int64)))
    numbered = started.flat_map(
        lambda epoch, first: tf.data.Dataset.range(first, steps).map(lambda step: epoch * steps + step)
    )
    batches = numbered.map(load, num_parallel_calls=2, deterministic=True)
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def _chooser(count: int, each: int, seed: int | None, stream: int) -> Callable[[int], np.ndarray]:
    """Return a function from a step to `each` numbers below `count`, drawn from successive permutations."""

    @lru_cache(maxsize=4)
    def order(turn: int) -> np.ndarray:
        return np.arange(count) if seed is None else np.random.default_rng([seed, stream, turn]).permutation(count)

    def choose(step: int) -> np.ndarray:
        places = np.arange(step * each, (step + 1) * each)
        turns = places // count if each else places
        parts = [order(turn)[places[turns == turn] % count] for turn in np.unique(turns)]
        return np.concatenate([places[:0], *parts])

    return choose
