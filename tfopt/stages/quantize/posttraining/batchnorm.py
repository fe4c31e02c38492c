"""BatchNormalization statistics recomputed from typical samples.

A layer's statistics are averages over augmented images and over weights that were still changing. If the images it
will see differ, statistics of such images fit better. No labels are needed.
"""

from typing import Any

from tfopt.bridge import clone
from tfopt.stages.quantize.posttraining.observing import batches_of
from tfopt.training.batchnorm import recompute_statistics

# The layers after a BatchNormalization see its output under the statistics of this many samples.
_AT_ONCE = 128


def reestimated(model: Any, samples: Any) -> tuple[Any, list[str]]:
    """Return a copy of a flat tf_keras `model` with the statistics of `samples`, and the names of the layers changed.

    See `tfopt.training.batchnorm.recompute_statistics`.

    Args:
        model: from `bridge.to_tf_keras`; not changed.
        samples: typical inputs, float32 (n, ...), or a list, tuple or dict of arrays; at least some hundred.
    """
    result = clone(model)
    return result, [norm.name for norm in recompute_statistics(result, batches_of(samples, _AT_ONCE))]
