"""Move the scale of regression targets into and out of the last layer of a model."""

from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.walk import walk
from tfopt.surgery.classifier import activation_of, classifier
from tfopt.tasks.scaling import TargetScale


def predict_normalized(model: Any, scale: TargetScale) -> bool:
    """Change the last layer of `model` in place: it outputs (value - mean) / deviation where it output values.

    Train such a model on `scale.normalized(labels)`, then call `predict_values`. Zeros in the kernel stay zeros, and
    with one deviation for all values, equal weights stay equal.

    Args:
        model: a flat model of either Keras that belongs to the caller.
        scale: of the training labels.

    Returns:
        Whether it was possible: the outputs come from one Dense layer or convolution with a bias and without an
        activation. The model is unchanged otherwise.
    """
    return _changed(model, scale, back=False)


def predict_values(model: Any, scale: TargetScale) -> bool:
    """Change the last layer of `model` in place: it outputs values where it output normalized ones.

    Also a start for a model with fresh weights: its first outputs then have mean and deviation of the targets. See
    `predict_normalized` for arguments and result.
    """
    return _changed(model, scale, back=True)


def _changed(model: Any, scale: TargetScale, *, back: bool) -> bool:
    found = classifier(walk(model))
    if not found.alone or len(found.heads) != 1 or found.squashing:
        return False
    layer = found.heads[0].layer
    weights = layer.get_weights()
    is_linear = facts_of(layer).family in ("dense", "convolution") and not activation_of(layer) and len(weights) == 2
    if not is_linear or weights[1].shape != np.shape(scale.mean):
        return False
    layer.set_weights(list((scale.restored if back else scale.applied)(*weights)))
    return True
