"""Weights of samples in the form of the losses: one for each sample, also where there is a loss for each place."""

from collections.abc import Mapping
from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks import Task
from tfopt.tasks.loss import one_hot_loss
from tfopt.training.outputs import LossByOutput

_SIZE = 4  # of axes that are free, to try a loss


def fitted_to_losses(batches: Any, loss: Any, task: Task, model: Any) -> Any:
    """Return `batches` with weights of as many axes as the values of the loss, by which Keras multiplies them.

    Without these, weights (batch,) would go along the last axis of the losses of places (batch, height, width), and
    weights of places would not fit a loss for each sample: of these the mean counts.

    Args:
        batches: a tf.data.Dataset of (x, y) or (x, y, weights).
        loss: of the only output, or a `LossByOutput`.
        task: of the data.
        model: its outputs are compared with the labels.
    """
    spec = batches.element_spec
    if len(spec) < 3:
        return batches
    if isinstance(loss, LossByOutput):
        losses, outputs, labels = loss.losses, task.by_output(model.outputs), spec[1]
    else:
        losses, outputs, labels = {"": loss}, {"": model.outputs[0]}, {"": spec[1]}
    axes = {name: _axes(each, labels[name], outputs[name]) for name, each in losses.items()}

    def fitted(x: Any, y: Any, weights: Any) -> Any:
        if not isinstance(y, Mapping):
            return x, y, _with_axes(weights, axes[""])
        by_output = weights if isinstance(weights, Mapping) else dict.fromkeys(y, weights)
        return x, y, {name: _with_axes(each, axes.get(name)) for name, each in by_output.items()}

    return batches.map(fitted, num_parallel_calls=2, deterministic=True)


def _axes(loss: Any, labels: Any, outputs: Any) -> int | None:
    """Return the number of axes of the values of `loss`, tried on zeros; None if it gives one number, or cannot run."""
    import tensorflow as tf

    y, made = (tf.zeros([size or _SIZE for size in each.shape], each.dtype) for each in (labels, outputs))
    try:
        values = _values(tf_keras().losses.get(loss), y[:, None] if len(y.shape) == 1 else y, made)
    except Exception:  # the training says why
        return None
    return len(values.shape) or None


def _values(loss: Any, labels: Any, outputs: Any) -> Any:
    """Return what `loss` gives before Keras weighs and averages it."""
    import tensorflow as tf

    if isinstance(loss, one_hot_loss()):
        return _values(loss.loss, loss.encoded(labels, outputs), outputs)
    if hasattr(loss, "loss"):  # of Keras 3, run by tf_keras
        return _values(loss.loss, labels, outputs)
    if hasattr(loss, "call"):
        return loss.call(labels, outputs)
    fits = len(labels.shape) == len(outputs.shape) or outputs.shape[-1] != 1
    return loss(labels, outputs if fits else tf.squeeze(outputs, -1))


def _with_axes(weights: Any, axes: int | None) -> Any:
    """Return weights (batch, ...) with that many axes: further ones of size 1, or the mean over the last ones."""
    import tensorflow as tf

    more = (axes or len(weights.shape)) - len(weights.shape)
    if more < 0:
        return tf.reduce_mean(weights, axis=list(range(more, 0)))
    return weights[(..., *[tf.newaxis] * more)]
