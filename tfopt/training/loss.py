"""The loss that a model is trained with: the recipe's, its own, or what fits labels and outputs."""

from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.data import Dataset
from tfopt.errors import RecipeError
from tfopt.tasks.loss import fits_labels, loss_for
from tfopt.training.settings import Training


def choose_loss(model: Any, training: Training, data: Dataset) -> Any:
    """The loss to train `model` (tf_keras) with: the recipe's, else the compiled one, else what fits the labels.

    Raises `RecipeError` for a loss name that tf_keras does not know, or one that does not fit the labels.
    """
    if training.loss is not None:
        try:
            return tf_keras().losses.get(training.loss)
        except ValueError as error:
            raise RecipeError(f"Unknown loss {training.loss!r}. Give the name of a tf_keras loss.") from error
    if bridge.is_compiled(model) and model.loss is not None and fits_labels(model.loss, data):
        return model.loss
    return _loss_for_labels(model, data)


def _loss_for_labels(model: Any, data: Dataset) -> Any:
    logits = data.task != "regression" and not _gives_probabilities(model, data)
    if data.task == "classification" and model.output_shape[-1] == 1:
        return tf_keras().losses.BinaryCrossentropy(from_logits=logits)
    return loss_for(data, logits=logits)


def _gives_probabilities(model: Any, data: Dataset) -> bool:
    outputs = model(data.validation.x(slice(0, 64)), training=False).numpy()
    inside = bool(np.all((outputs >= 0) & (outputs <= 1)))
    if data.task == "multilabel" or outputs.shape[-1] == 1:
        return inside
    return inside and bool(np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))
