"""Values far from 0: a model that has not learned them begins at their mean and deviation."""

from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.data import Dataset
from tfopt.data.samples import FEW_GUIDES
from tfopt.surgery.output_scale import predict_values
from tfopt.tasks import task_of
from tfopt.tasks.scaling import TargetScale

FAR = 4.0
"""Times the variance of the targets: a larger error is that of a model that knows nothing about them."""


def begin_at_targets(flat_model: Any, data: Dataset) -> tuple[Any, list[str]]:
    """Return a model of values that knows nothing about them with another last layer, and a note; others as they are.

    Its bias would otherwise need hundreds of steps to the mean of targets such as prices.

    Args:
        flat_model: of tf_keras; not changed.
        data: the training part shows the targets and what the model answers now.
    """
    if data.outputs is not None or not task_of(data).smaller_is_better:
        return flat_model, []
    some, scale = data.train.some(FEW_GUIDES), TargetScale.of(data.train.guides())
    before = _error(flat_model, some, scale)
    if before <= FAR:
        return flat_model, []
    changed = bridge.clone(flat_model)
    if not predict_values(changed, scale) or _error(changed, some, scale) >= before:
        return flat_model, []
    return changed, [
        f"the model knows nothing about the targets (its squared error is {before:.3g} times their variance): its last "
        "layer begins with their mean and deviation"
    ]


def _error(model: Any, samples: Any, scale: TargetScale) -> float:
    """Return the squared error of `model` as a share of the variance of the targets."""
    targets = scale.normalized(samples.y())
    found = np.asarray(model.predict(samples.x(), verbose=0)).reshape(targets.shape)
    return float(np.square(scale.normalized(found) - targets).mean())
