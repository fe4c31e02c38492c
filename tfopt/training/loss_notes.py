"""Say in the report which compiled losses train a model."""

from typing import Any

from tfopt import bridge
from tfopt.data import Dataset
from tfopt.tasks.loss import fits_labels
from tfopt.training.loss import of_single_output
from tfopt.training.settings import Training


def loss_notes(model: Any, training: Training, data: Dataset) -> list[str]:
    """Return a note on the losses and weights that `model` (tf_keras) is compiled with, where the recipe sets none."""
    if data.labels == "none" or not bridge.is_compiled(model):
        return []
    if data.outputs is None:
        compiled = of_single_output(model.loss)
        return [] if compiled is None or training.loss is not None else [f"loss: {_origin(compiled, data)}"]
    names, own = list(data.outputs), training.loss if isinstance(training.loss, dict) else {}
    compiled = bridge.compiled_by_output(model, "loss", names)
    weights = training.loss_weights or bridge.compiled_by_output(model, "loss_weights", names)
    said = [
        f"loss of {name}: {_origin(compiled[name], data.of_output(name))}{_weight(weights, name)}"
        for name in names
        if name in compiled and name not in own
    ]
    return ["; ".join(said)] if said else []


def _origin(compiled: Any, data: Dataset) -> str:
    """Return the name of a compiled loss, and whether it counts."""
    names = (getattr(compiled, key, None) for key in ("__name__", "name"))
    name = compiled if isinstance(compiled, str) else next(filter(None, names), type(compiled).__name__)
    if fits_labels(compiled, data.labels):
        return f"{name}, as the model is compiled"
    return f"that of the task for {data.labels} labels, since {name}, as the model is compiled, does not fit them"


def _weight(weights: Any, name: str) -> str:
    return f", weight {weights.get(name, 1.0):g}" if weights else ""
