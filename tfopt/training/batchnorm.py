"""BatchNormalization statistics: recompute them from data, and adapt their momentum to short training.

A moving average with momentum m remembers about 1 / (1 - m) steps. After 48 steps at 0.99 it still is 62 % what it was
before the training, while the weights have moved on, so that the model works in training and fails in inference.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfopt.base.decorators import not_converted
from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides, override_attributes
from tfopt.graph import keras_internals
from tfopt.graph.layer_facts import facts_of

# Samples for the statistics: 10^3 to 10^4 suffice (Wu and Johnson 2021, arXiv:2105.07576, section 3).
SAMPLES = 2048
# With fewer training samples than this, the statistics of pretrained layers are better than those of the few.
FEW = 1000
# A moving average over fewer steps than this fraction of the training has forgotten the start, up to exp(-10).
MEMORY = 0.1
LEAST_MOMENTUM = 0.5

Statistics = list[tuple[np.ndarray, np.ndarray]]
"""Moving mean and variance of each layer, float32."""


def updated_norms(model: Any) -> list[Any]:
    """Return the BatchNormalization layers of a tf_keras `model`, wrapped or nested, whose statistics training updates.

    These are all but the frozen ones.
    """
    inside = [unwrapped(layer) for layer in model.layers]
    parts = [part for layer in inside for part in keras_internals.flat_layers(layer)]
    found = [part for part in parts if facts_of(part).family == "batch_norm" and part.trainable]
    return list({id(norm): norm for norm in found if not getattr(norm, "renorm", False)}.values())


def statistics_of(norms: Sequence[Any]) -> Statistics:
    """Return the statistics of `norms`."""
    return [(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in norms]


def set_statistics(norms: Sequence[Any], statistics: Statistics) -> None:
    """Set the statistics of `norms`."""
    for norm, (mean, variance) in zip(norms, statistics, strict=True):
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)


def recompute_statistics(model: Any, batches: Iterable[tuple[Any, int]]) -> list[Any]:
    """Replace the moving statistics of a tf_keras `model` by those of `batches` (PreciseBN), in place.

    Wu and Johnson 2021, arXiv:2105.07576, section 3: each batch is normalized by its own statistics. The mean is that
    of the batch means, the variance that of all values. Everything else, e.g. dropout, works as in inference.

    Args:
        model: flat, perhaps with a stage's wrappers.
        batches: pairs of model inputs (float32, batch first) and their number of samples.

    Returns:
        The layers with new statistics: not the frozen ones, nor those that the model calls more than once, since each
        call has its own statistics.
    """
    norms = updated_norms(model)
    calls = dict.fromkeys(map(id, norms), 0)
    sums = [np.zeros((2, *norm.moving_mean.shape), np.float64) for norm in norms]
    before, total = statistics_of(norms), 0
    if norms:
        with override_attributes([place for norm in norms for place in _as_in_training(norm, calls)]):
            run = None
            for x, count in batches:
                run = run or _traced(model, x)
                run(x)
                for (mean, variance), so_far in zip(_float64(statistics_of(norms)), sums, strict=True):
                    so_far += count * np.stack([mean, variance + mean**2])
                total += count
    if not total:
        return []
    recomputed = [calls[id(norm)] == 1 for norm in norms]
    found = [(mean, np.maximum(square - mean**2, 0)) for mean, square in (part / total for part in sums)]
    set_statistics(norms, [new if fits else old for fits, new, old in zip(recomputed, found, before, strict=True)])
    return [norm for norm, fits in zip(norms, recomputed, strict=True) if fits]


def statistics_shift(norms: Sequence[Any], kept: Statistics, precise: Statistics) -> float:
    """Return how far `kept` statistics are from `precise` ones, at the layer where they are farthest apart.

    For one layer it is the root mean square, over channels, of the shift of the mean in standard deviations and of the
    relative change of the standard deviation: 0 if they are equal, 1 if outputs shift by one standard deviation.
    """

    def of_layer(norm: Any, old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> float:
        deviation, was = (np.sqrt(np.maximum(variance, 0) + norm.epsilon) for variance in (new[1], old[1]))
        shifts = [(old[0] - new[0]) / deviation, was / deviation - 1]
        return float(np.sqrt(np.mean(np.square(shifts))))

    pairs = zip(norms, _float64(kept), _float64(precise), strict=True)
    return max((of_layer(norm, old, new) for norm, old, new in pairs), default=0.0)


def fitting_momentum(model: Any, steps: int) -> Overrides:
    """Return the lower momentum with which the averages of `model` can follow a training of `steps` steps."""
    limit = max(LEAST_MOMENTUM, 1 - 1 / max(MEMORY * steps, 1))
    return [(norm, "momentum", limit) for norm in updated_norms(model) if norm.momentum > limit]


def in_inference_mode(model: Any) -> Overrides:
    """Return what makes `model` keep and use the moving statistics also in training, where they have seen data."""

    def fixed(norm: Any) -> Any:
        call = norm.call
        return lambda inputs, training=None, mask=None: call(inputs, training=False)

    return [(norm, "call", fixed(norm)) for norm in updated_norms(model) if has_seen_data(norm)]


def has_seen_data(norm: Any) -> bool:
    """Return whether the statistics of a BatchNormalization of either Keras differ from their initial values."""
    mean, variance = (np.asarray(weight) for weight in (norm.moving_mean, norm.moving_variance))
    return bool(np.any(mean != 0) or np.any(variance != 1))


def _traced(model: Any, x: Any) -> Any:
    """Return `model` in inference mode as a function of batches of any size like `x`.

    Eager calls know the size, and TimeDistributed then works step by step, each step with its own statistics.
    """
    import tensorflow as tf

    specs = tf.nest.map_structure(lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), x)
    traced = tf.function(lambda inputs: model(inputs, training=False), input_signature=[specs])
    return traced.get_concrete_function()  # without TensorFlow's warning of one function for each model


def _as_in_training(norm: Any, calls: dict[int, int]) -> Overrides:
    """Return overrides that make `norm` normalize by the batch statistics and store only those."""
    call = norm.call

    @not_converted
    def with_own_statistics(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        del training
        calls[id(norm)] += 1
        return call(inputs, training=True) if mask is None else call(inputs, training=True, mask=mask)

    return [(norm, "call", with_own_statistics), (norm, "momentum", 0.0)]


def _float64(statistics: Statistics) -> Statistics:
    return [(mean.astype(np.float64), variance.astype(np.float64)) for mean, variance in statistics]
