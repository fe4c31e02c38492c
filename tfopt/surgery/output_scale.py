"""Move the scale of regression targets into and out of the last layer of a model."""

from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.value_heads import ValueHead, value_heads
from tfopt.graph.walk import walk
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
    heads = value_heads(walk(model))
    if len(heads) != 1 or (head := heads[0]) is None or head.bends:
        return False
    return bool(np.all(head.factor == 1) and np.all(head.offset == 0)) and _changed(head, scale, back=False)


def predict_values(model: Any, scale: TargetScale) -> bool:
    """Change the last layer of `model` in place: it outputs values where it output normalized ones.

    Also a start for a model with fresh weights: its first outputs then have mean and deviation of the targets, also
    through a Rescaling, or an activation such as ReLU that leaves values above 0 as they are. See `predict_normalized`
    for arguments and result.
    """
    heads = value_heads(walk(model))
    return len(heads) == 1 and head_predicts_values(heads[0], scale)


def head_predicts_values(head: ValueHead | None, scale: TargetScale) -> bool:
    """Do what `predict_values` does for one output of a model, whose layer is `head`; None is not possible."""
    return head is not None and head.can_give(scale.mean) and _changed(head, scale, back=True)


def _changed(head: ValueHead, scale: TargetScale, *, back: bool) -> bool:
    if facts_of(head.layer).family not in ("dense", "convolution"):
        return False
    weights = head.layer.get_weights()
    if len(weights) != 2 or weights[1].shape != np.shape(scale.mean):
        return False
    # Values are factor * z + offset: the normalized values take the place of z / |factor| around the mean.
    size = np.abs(head.factor)
    z_scale = TargetScale((scale.mean - head.offset) / head.factor, scale.deviation / size)
    head.layer.set_weights(list((z_scale.restored if back else z_scale.applied)(*weights)))
    return True
