"""The loss that fits labels."""

from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import RecipeError
from tfopt.tasks.labels import Labeled


def loss_for(data: Labeled, *, logits: bool) -> Any:
    """The tf_keras loss for the labels of `data` and outputs that are `logits`, else probabilities or values."""
    losses = tf_keras().losses
    if data.task == "regression":
        return losses.MeanSquaredError()
    if data.task == "multilabel":
        return losses.BinaryCrossentropy(from_logits=logits)
    sparse = losses.SparseCategoricalCrossentropy if data.labels == "sparse" else losses.CategoricalCrossentropy
    return sparse(from_logits=logits)


def fits_labels(loss: Any, data: Labeled) -> bool:
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
