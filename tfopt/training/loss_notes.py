"""Say in the report which compiled losses train a model."""

from typing import Any

from tfopt import bridge
from tfopt.data import Dataset
from tfopt.tasks import task_of
from tfopt.tasks.loss import fits_labels
from tfopt.training.label_form import other_form
from tfopt.training.loss import of_single_output
from tfopt.training.settings import Training


def loss_notes(model: Any, training: Training, data: Dataset) -> list[str]:
    """Return a note on the losses and weights that `model` (tf_keras) is compiled with, where the recipe sets none."""
    if data.labels == "none" or not bridge.is_compiled(model):
        return []
    if data.outputs is None:
        compiled = of_single_output(model.loss)
        return (
            []
            if compiled is None or training.loss is not None
            else [f"loss: {_origin(compiled, data, model.outputs[0])}"]
        )
    names, own = list(data.outputs), training.loss if isinstance(training.loss, dict) else {}
    compiled = bridge.compiled_by_output(model, "loss", names)
    outputs = task_of(data).by_output(model.outputs)
    weights = training.loss_weights or bridge.compiled_by_output(model, "loss_weights", names)
    said = [
        f"loss of {name}: {_origin(compiled[name], data.of_output(name), outputs[name])}{_weight(weights, name)}"
        for name in names
        if name in compiled and name not in own
    ]
    return ["; ".join(said)] if said else []


def _origin(compiled: Any, data: Dataset, outputs: Any) -> str:
    """Return the name of a compiled loss of `outputs`, and whether it counts."""
    names = (getattr(compiled, key, None) for key in ("__name__", "name"))
    name = compiled if isinstance(compiled, str) else next(filter(None, names), type(compiled).__name__)
    if fits_labels(compiled, data.labels):
        return f"{name}, as the model is compiled{_form(compiled, data, outputs)}"
    return f"that of the task for {data.labels} labels, since {name}, as the model is compiled, does not fit them"


def _form(loss: Any, data: Dataset, outputs: Any) -> str:
    """Return in which form a loss gets the labels, if that is not the form in which they came."""
    if not other_form(loss, data.train.y(slice(0, 1)), data.labels, outputs.shape[-1]):
        return ""
    return f", on {'one-hot labels' if data.labels == 'sparse' else 'class numbers'}"


def _weight(weights: Any, name: str) -> str:
    return f", weight {weights.get(name, 1.0):g}" if weights else ""
