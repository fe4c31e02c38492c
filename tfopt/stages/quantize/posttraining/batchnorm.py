"""BatchNormalization's statistics, taken anew from typical samples (PreciseBN: Wu and Johnson 2021, arXiv:2105.07576).

What a layer has kept from training are averages over augmented images and over weights that were still changing. Where
the images it will meet are others, statistics of such images fit better; no labels are needed.
"""

from typing import Any

import numpy as np

from tfopt.bridge import clone
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.quantize.posttraining.observing import batches_of
from tfopt.stages.quantize.wrapper import Overrides, override_attributes

# As many samples make the statistics that the layers behind see meanwhile.
_AT_ONCE = 128


def reestimated(model: Any, samples: Any) -> tuple[Any, list[str]]:
    """A copy of a flat tf_keras `model` with moving means and variances of `samples`, and the names of such layers.

    Frozen layers and layers that are called in several places keep theirs. The mean is that of the batches of 128 that
    the samples are read in, the variance that of all their values (section 3 there); everything else, dropout too,
    works as in inference.

    Args:
        model: as `bridge.to_tf_keras` gives; not changed.
        samples: typical inputs, float32 (n, ...), or a list, tuple or dict of arrays; some hundred at the least.
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
    """While these hold, `norm` works with the statistics of the batch, and keeps just these."""
    call = norm.call

    def with_own_statistics(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        del training, mask
        return call(inputs, training=True)

    return [(norm, "call", with_own_statistics), (norm, "momentum", 0.0)]
