"""Recompute BatchNormalization statistics from typical samples (PreciseBN: Wu and Johnson 2021, arXiv:2105.07576).

The statistics from training are averages over augmented images and over weights that were still changing. If the images
in use differ, statistics of such images fit better. No labels are needed.
"""

from typing import Any

import numpy as np

from tfopt.base.overrides import Overrides, override_attributes
from tfopt.bridge import clone
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.quantize.posttraining.observing import batches_of

# Samples per batch; its statistics normalize the inputs of the layers that follow.
_AT_ONCE = 128


def reestimated(model: Any, samples: Any) -> tuple[Any, list[str]]:
    """Return a copy of `model` with moving means and variances recomputed from `samples`.

    Frozen layers and layers called in several places keep theirs. The samples are read in batches of 128. The mean is
    that of the batches, the variance that of all values (section 3 of the paper). All other layers, dropout included,
    work as in inference.

    Args:
        model: a flat tf_keras model, e.g. from `bridge.to_tf_keras`; not changed.
        samples: typical inputs, float32 (n, ...), or a list, tuple or dict of arrays; at least a few hundred.

    Returns:
        The copy, and the names of the recomputed layers.
    """
    result = clone(model)
    norms = [layer for layer in result.layers if _takes_part(layer)]
    if not norms:
        return result, []
    seen = []
    with override_attributes([place for norm in norms for place in _as_in_training(norm)]):
        for batch, count in batches_of(samples, _AT_ONCE):
            result(batch, training=False)
            statistics = [(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in norms]
            seen.append((count, statistics))
    weights = np.array([count for count, _ in seen], np.float64) / sum(count for count, _ in seen)
    for number, norm in enumerate(norms):
        means, variances = (np.array([found[number][part] for _, found in seen], np.float64) for part in (0, 1))
        mean = weights @ means
        norm.moving_mean.assign(mean.astype(np.float32))
        norm.moving_variance.assign((weights @ (variances + means**2) - mean**2).astype(np.float32))
    return result, [norm.name for norm in norms]


def _takes_part(layer: Any) -> bool:
    return facts_of(layer).family == "batch_norm" and layer.trainable and len(layer.inbound_nodes) == 1


def _as_in_training(norm: Any) -> Overrides:
    """Return overrides under which `norm` uses the statistics of the batch and stores exactly these."""
    call = norm.call

    def with_own_statistics(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        del training, mask
        return call(inputs, training=True)

    return [(norm, "call", with_own_statistics), (norm, "momentum", 0.0)]
