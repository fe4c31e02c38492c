"""The form of labels that a loss of somebody else expects, which its name does not tell."""

from typing import Any

import numpy as np

from tfopt.tasks.loss import is_built_in
from tfopt.tasks.task import LabelForm

MOST_CLASSES = 4  # that are tried
RIGHT = 0.9  # of an answer; the other outputs share the rest, so that these are probabilities and usable as logits


def other_form(loss: Any, labels: np.ndarray, form: LabelForm, classes: int) -> bool:
    """Return whether a loss expects the other one of class numbers and one-hot labels.

    A loss of class numbers that gets one-hot labels, or the other way round, often gives a number all the same, and
    trains nothing. A loss is smaller for the right answer than for a wrong one: the form counts in which it is.

    Args:
        loss: a tf_keras loss or a function of labels and outputs; those of Keras itself are known.
        labels: of samples, (n, ...), in the given form.
        form: of `labels`.
        classes: outputs, of which each sample has one right.
    """
    if form not in ("sparse", "one-hot") or classes < 2 or is_built_in(loss):
        return False
    places = labels.shape[1:] if form == "sparse" else labels.shape[1:-1]
    forms: dict[LabelForm, bool] = {each: _orders(loss, each, places, classes) for each in ("sparse", "one-hot")}
    other: LabelForm = "one-hot" if form == "sparse" else "sparse"
    return forms[other] and not forms[form]


def _orders(loss: Any, form: LabelForm, places: tuple[int, ...], classes: int) -> bool:
    """Return whether `loss` with labels of `form` is smaller for right answers than for wrong ones."""
    return any(_orders_as(loss, form, dtype, places, classes) for dtype in ("int32", "float32"))


def _orders_as(loss: Any, form: LabelForm, dtype: str, places: tuple[int, ...], classes: int) -> bool:
    for right in range(min(classes, MOST_CLASSES)):
        number = np.full((1, *places), right)
        label = np.eye(classes)[number] if form == "one-hot" else number if places else number[:, None]
        try:
            good, bad = (
                float(np.mean(loss(label.astype(dtype), _answer(answer, places, classes))))
                for answer in (right, (right + 1) % classes)
            )
        except Exception:  # whatever a loss of somebody else raises
            return False
        if not good < bad:
            return False
    return True


def _answer(number: int, places: tuple[int, ...], classes: int) -> np.ndarray:
    outputs = np.full((1, *places, classes), (1 - RIGHT) / (classes - 1), np.float32)
    outputs[..., number] = RIGHT
    return outputs
