"""Check of a loss against the form of the labels."""

from typing import Any

from tfopt.errors import RecipeError
from tfopt.tasks.task import LabelForm


def fits_labels(loss: Any, labels: LabelForm) -> bool:
    """Return False for a crossentropy that only expects another label encoding; `Task.loss` gives the right one.

    Raises:
        RecipeError: no loss for these labels computes the same.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    family = name.lower().replace("_", "")
    if "categoricalcrossentropy" not in family:
        return True
    if family.startswith("sparse") == (labels == "sparse"):
        return True
    if hasattr(loss, "get_config") and loss.get_config().get("label_smoothing"):
        raise RecipeError(
            f"The model was compiled with {name} and label smoothing, which needs one-hot labels; the data has "
            f"{labels} labels. Use one-hot labels, or set Training(loss=...) in the recipe."
        )
    return False
