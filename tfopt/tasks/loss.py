"""The loss that fits a task, its labels and its outputs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.data import Dataset
from tfopt.errors import RecipeError

if TYPE_CHECKING:
    from tfopt.training.settings import Training


def loss_for(data: Dataset, *, logits: bool) -> Any:
    """The tf_keras loss for the labels of `data` and outputs that are `logits`, else probabilities or values."""
    losses = tf_keras().losses
    if data.task == "regression":
        return losses.MeanSquaredError()
    if data.task == "multilabel":
        return losses.BinaryCrossentropy(from_logits=logits)
    sparse = losses.SparseCategoricalCrossentropy if data.labels == "sparse" else losses.CategoricalCrossentropy
    return sparse(from_logits=logits)


def choose_loss(model: Any, training: "Training", data: Dataset) -> Any:
    """The loss to train `model` (tf_keras) with: the recipe's, else the compiled one, else what fits the labels.

    Raises `RecipeError` for a loss name that tf_keras does not know, or one that does not fit the labels.
    """
    if training.loss is not None:
        try:
            return tf_keras().losses.get(training.loss)
        except ValueError as error:
            raise RecipeError(f"Unknown loss {training.loss!r}. Give the name of a tf_keras loss.") from error
    if bridge.is_compiled(model) and model.loss is not None and _fits_labels(model.loss, data):
        return model.loss
    return _loss_for_labels(model, data)


def _loss_for_labels(model: Any, data: Dataset) -> Any:
    logits = data.task != "regression" and not _gives_probabilities(model, data)
    if data.task == "classification" and model.output_shape[-1] == 1:
        return tf_keras().losses.BinaryCrossentropy(from_logits=logits)
    return loss_for(data, logits=logits)


def _fits_labels(loss: Any, data: Dataset) -> bool:
    """False for a crossentropy that is right but for the encoding of the labels: the twin for it is taken.

    Raises `RecipeError` where no twin computes the same.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    family = name.lower().replace("_", "")
    if "categoricalcrossentropy" not in family:
        return True
    if family.startswith("sparse") == (data.labels == "sparse"):
        return True
    if getattr(loss, "_fn_kwargs", {}).get("label_smoothing"):
        raise RecipeError(
            f"The model was compiled with {name} and label smoothing, which needs one-hot labels; the data has "
            f"{data.labels} labels. Give one-hot labels, or the recipe a Training(loss=...)."
        )
    return False


def _gives_probabilities(model: Any, data: Dataset) -> bool:
    outputs = model(data.validation.x(slice(0, 64)), training=False).numpy()
    inside = bool(np.all((outputs >= 0) & (outputs <= 1)))
    if data.task == "multilabel" or outputs.shape[-1] == 1:
        return inside
    return inside and bool(np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))
