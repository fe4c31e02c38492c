"""Labels as a metric expects them: class numbers, or one value for each output."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.loss import compares_with_outputs
from tfopt.tasks.task import LabelForm

AT_ONCE = 1024
"""Samples on which a metric is computed at a time."""


def measured(
    fresh: Callable[[], Any], labels: np.ndarray, outputs: np.ndarray, form: LabelForm, own: LabelForm | None = None
) -> float:
    """Return the value of a metric, fed as Keras feeds it.

    Args:
        fresh: returns a new metric of either Keras.
        labels: as for `labels_for`, as what follows.
        outputs: of a model.
        form: of the labels.
        own: what the loss of the model expects.

    Raises:
        Exception: whatever the metric raises.
    """
    reason: Exception | None = None
    for given in labels_for(fresh(), labels, outputs, form, own):
        metric = fresh()
        try:
            for start in range(0, len(given), AT_ONCE):
                metric.update_state(given[start : start + AT_ONCE], outputs[start : start + AT_ONCE])
            return float(np.asarray(metric.result()))
        except Exception as error:
            reason = reason or error
    assert reason is not None
    raise reason


def labels_for(
    metric: Any, labels: np.ndarray, outputs: np.ndarray, form: LabelForm, own: LabelForm | None
) -> Iterator[np.ndarray]:
    """Yield `labels` in the forms in which a metric may expect them, the likeliest first.

    Those of Keras say by their names which they expect, and metrics of one's own expect what the loss does.

    Args:
        metric: of either Keras.
        labels: (n, ...).
        outputs: of a model for the same samples.
        form: of the labels.
        own: what the loss of the model expects; None if that is not known.
    """
    classes = outputs.shape[-1]
    wanted = expected_by(metric) or own or form
    if form == "sparse" and classes > 1 and labels.shape == outputs.shape[:-1]:
        if wanted == "one-hot":
            yield np.eye(classes, dtype=np.float32)[labels]
            return
    elif form == "one-hot" and wanted == "sparse" and labels.shape == outputs.shape:
        labels = labels.argmax(axis=-1).astype(np.int32)
    if labels.ndim == 1 or (classes == 1 and labels.shape == outputs.shape[:-1]):
        yield labels[..., None]
        return
    yield labels
    if labels.ndim == outputs.ndim - 1:
        yield labels[..., None]


def expected_by(metric: Any) -> LabelForm | None:
    """Return the form of labels that a metric of Keras expects; None for one of somebody else."""
    metric = getattr(metric, "carried", metric)
    if (sparse := getattr(metric, "sparse_y_true", None)) is not None:  # MeanIoU and its relatives
        return "sparse" if sparse else "one-hot"
    of = getattr(metric, "_fn", None) or type(metric)
    if str(getattr(of, "__module__", "")).partition(".")[0] not in ("keras", "tf_keras"):
        return None
    return "sparse" if of.__name__.lower().startswith("sparse") else "one-hot"


def expected_by_loss(loss: Any) -> LabelForm | None:
    """Return the form of labels that a loss of either Keras, or its name, expects; None for one of somebody else."""
    import keras

    if isinstance(loss, str):
        for package in (tf_keras(), keras):
            try:
                loss = package.losses.get(loss)
                break
            except (ValueError, TypeError):
                continue
    if compares_with_outputs(loss):
        return "one-hot"
    name = loss.__name__ if inspect.isroutine(loss) else type(loss).__name__
    return "sparse" if name.lower().startswith("sparse") else None
