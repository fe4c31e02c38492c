"""Choose the training loss: the recipe's, the model's, or one that fits labels and outputs."""

import contextlib
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.base.words import reason_of
from tfopt.data import Dataset
from tfopt.errors import DataError, RecipeError
from tfopt.tasks import task_of
from tfopt.tasks.loss import class_number_loss, compares_with_outputs, fits_labels, last_axis_loss, one_hot_loss
from tfopt.tasks.responses import are_logits
from tfopt.training.label_form import other_form
from tfopt.training.named import loss_named
from tfopt.training.settings import Training

# Samples that a model sees at once to show the form of its outputs.
AT_ONCE = 64
FEW = 4


def choose_loss(model: Any, training: Training, data: Dataset) -> Any:
    """Return the loss to train `model` (tf_keras) with: the recipe's, else the compiled one, else one for the labels.

    Raises:
        RecipeError: a loss name that tf_keras does not know, or a loss that does not fit the labels.
    """
    loss = loss_for(model, data, of_single_output(model.loss) if bridge.is_compiled(model) else None, training.loss)
    if training.mixup and isinstance(loss, class_number_loss()):
        raise RecipeError(
            "Training(mixup=...) mixes one-hot labels, and the loss of the model expects class numbers. Leave mixup "
            "out, or set Training(loss=...)."
        )
    return loss


def loss_for(model: Any, data: Dataset, compiled: Any, named: Any = None) -> Any:
    """Return a loss for a `model` (tf_keras) with one output.

    Args:
        model: with that output.
        data: for it.
        compiled: the loss that it is compiled with; it counts if it fits the labels.
        named: in the recipe, as data; it counts first. Without either the loss is one for the labels.

    Raises:
        RecipeError: it is unknown, or cannot be computed from the labels and the outputs.
    """
    if named is not None:
        return _checked(loss_named(named), model, data)
    if compiled is not None and fits_labels(compiled, data.labels):
        return _checked(compiled, model, data)
    return _loss_for_labels(model, data)


def of_single_output(loss: Any) -> Any:
    """Return the loss that a list or dict with one entry, such as `compile(loss=["mse"])`, holds."""
    while isinstance(loss, list | tuple | dict) and len(loss) == 1:
        [loss] = loss.values() if isinstance(loss, dict) else loss
    return loss


def _checked(loss: Any, model: Any, data: Dataset) -> Any:
    """Return `loss`, on one-hot labels if it needs them and the data have class numbers.

    Raises:
        RecipeError: it cannot be computed from the labels and the outputs of `model`.
    """
    if isinstance(loss, list | tuple | dict):
        raise RecipeError(
            f"'{model.name}' is compiled with {len(loss)} losses and has one output. Compile it with one, or set "
            "Training(loss=...) in the recipe."
        )
    function = tf_keras().losses.get(loss)
    outputs, labels = _outputs(model, data.train.x(slice(0, FEW))), data.train.y(slice(0, FEW))
    other = other_form(function, labels, data.labels, outputs.shape[-1])
    if data.labels == "sparse" and (other or _needs_one_value_per_output(function, model.output_shape)):
        loss = function = one_hot_loss()(function)
    elif other:
        loss = function = class_number_loss()(function)
    try:
        return _computed(loss, function, labels, outputs)
    except Exception as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise RecipeError(
            f"The loss {name} cannot be computed from labels {labels.dtype} {labels.shape[1:]} and outputs "
            f"{tuple(outputs.shape[1:])} of a sample: {reason_of(error).rstrip('.')}. Give the data the labels that it "
            "expects, or set Training(loss=...) in the recipe."
        ) from error


def _computed(loss: Any, function: Any, labels: np.ndarray, outputs: Any) -> Any:
    """Return `loss` if it can be computed, else one with a last axis of length 1 for labels of places."""
    import tensorflow as tf

    given = tf.constant(labels[:, None] if labels.ndim == 1 else labels)  # as Keras gives them to a loss
    try:
        function(given, outputs)
        return loss
    except Exception:
        if len(given.shape) != len(outputs.shape) - 1:
            raise
        with_axis = last_axis_loss()(function)
        with contextlib.suppress(Exception):
            with_axis(given, outputs)
            return with_axis
        raise


def _needs_one_value_per_output(loss: Any, output_shape: tuple[int | None, ...]) -> bool:
    if output_shape[-1] == 1:
        return len(output_shape) > 2  # Keras gives labels (batch,) a last axis, but not those of places
    return compares_with_outputs(loss)


def _loss_for_labels(model: Any, data: Dataset) -> Any:
    return task_of(data).loss(logits=gives_logits(model, data), outputs=model.output_shape[-1])


def gives_logits(model: Any, data: Dataset) -> bool:
    """Return whether `model` (tf_keras) outputs logits, for a task with probabilities, judged by some samples.

    Raises:
        DataError: the model refuses the values of its inputs.
    """
    task = task_of(data)
    if not task.has_probabilities:
        return False
    samples = [data.validation.x(slice(0, AT_ONCE))]
    if not task.exclusive(model.output_shape[-1]):  # the logits of a few samples may all lie between 0 and 1
        chosen = data.train.spread(4 * AT_ONCE)
        samples += [data.train.x(chosen[start : start + AT_ONCE]) for start in range(0, len(chosen), AT_ONCE)]
    return any(are_logits(_outputs(model, x).numpy(), task) for x in samples)


def _outputs(model: Any, x: Any) -> Any:
    """Return the outputs for inputs `x`. Raise `DataError` if the model refuses their values."""
    import tensorflow as tf

    try:
        return model(x, training=False)
    except tf.errors.InvalidArgumentError as error:
        raise DataError(
            f"'{model.name}' cannot take the inputs: {reason_of(error)}. Give it those that it was trained on."
        ) from error
