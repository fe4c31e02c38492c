"""What a model's output means, seen from its values, and the logits behind it."""

from typing import Any, Literal

import numpy as np

from tfopt.errors import ModelError

Form = Literal["logits", "probabilities", "values"]
# Below this a probability says nothing but "none": float32 keeps 38 digits, and its logarithm must stay finite.
FLOOR = 1e-30
# How far the sum of probabilities may be from 1, in half precision and in int8 with steps of 1/256.
SUM_TOLERANCE = 0.02


def form_of(outputs: np.ndarray, task: str | None) -> Form:
    """What `outputs` (batch, ...) are for a `task`: "values" in a regression, else told by their range and sums.

    Raises ModelError for NaN and infinity.
    """
    if not np.isfinite(outputs).all():
        raise ModelError("Expected finite outputs; got NaN or infinity. Look at the weights and the inputs.")
    if task == "regression":
        return "values"
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if task == "classification" and outputs.shape[-1] > 1:
        inside = inside and bool(np.allclose(outputs.sum(axis=-1, dtype=np.float64), 1, atol=SUM_TOLERANCE))
    return "probabilities" if inside else "logits"


def as_logits(outputs: Any, form: Form, task: str | None, floor: float = FLOOR) -> Any:
    """`outputs` of that form as float32 logits (values in a regression): log p, or log p - log(1 - p) for labels.

    softmax(log p) is p again, whatever constant the true logits had. `floor` is the smallest probability that is
    told from 0.
    """
    import tensorflow as tf

    outputs = tf.cast(outputs, tf.float32)
    if form != "probabilities":
        return outputs
    if task != "multilabel":
        return log_probabilities(outputs, floor)
    return log_odds(outputs, max(floor, 1e-7))  # 1 - p has no smaller steps


def log_probabilities(p: Any, low: float) -> Any:
    """log p, of the float32 tensor `p`; `low` is the smallest probability that is told from 0."""
    import tensorflow as tf

    return tf.math.log(tf.maximum(p, low))


def log_odds(p: Any, margin: float) -> Any:
    """log p - log(1 - p), of the float32 tensor `p` kept `margin` away from 0 and 1."""
    import tensorflow as tf

    inside = tf.clip_by_value(p, margin, 1 - margin)
    return tf.math.log(inside) - tf.math.log1p(-inside)
