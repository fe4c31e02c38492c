"""Training of models with several outputs: what each of them learns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.base.words import reason_of
from tfopt.data import Dataset, Split
from tfopt.errors import RecipeError
from tfopt.graph.ports import Ports
from tfopt.tasks import task_of
from tfopt.tasks.scaling import TargetScale
from tfopt.tasks.task import LabelForm
from tfopt.training.loss import choose_loss, gives_logits, loss_for
from tfopt.training.metric_labels import measured
from tfopt.training.named import is_object, metric_named
from tfopt.training.settings import Training
from tfopt.training.variables import build_metric


@dataclass(frozen=True)
class LossByOutput:
    """The losses of several outputs, and their weights in the sum.

    Attributes:
        losses: of tf_keras, by output.
        weights: by output.
    """

    losses: Mapping[str, Any]
    weights: Mapping[str, float]


def objective(model: Any, training: Training, data: Dataset) -> tuple[Any, Any]:
    """Return the loss to train `model` (tf_keras) with, and whether its outputs are logits.

    Several outputs get the losses and weights of the recipe, else those that they are compiled with, else the loss for
    their labels. Without any weights, errors of values are divided by the variance of the labels, so that all losses
    are of similar size.

    Returns:
        For one output what `choose_loss` and `gives_logits` return; for several a `LossByOutput`, and a dict. For
        data without labels no loss.

    Raises:
        RecipeError: a loss does not fit its output.
    """
    if data.labels == "none":
        return None, False if data.outputs is None else dict.fromkeys(data.outputs, False)
    if data.outputs is None:
        _require_one(training, model)
        return choose_loss(model, training, data), gives_logits(model, data)
    names, alone = list(data.outputs), single_outputs(model, data)
    own, weighted = _by_output(training.loss, names, "loss"), _by_output(training.loss_weights, names, "loss_weights")
    compiled = bridge.compiled_by_output(model, "loss", names) if bridge.is_compiled(model) else {}
    given = bridge.compiled_by_output(model, "loss_weights", names) if bridge.is_compiled(model) else {}
    losses, logits = {}, {}
    for name, each in alone.items():
        part = data.of_output(name)
        losses[name] = loss_for(each, part, compiled.get(name), own.get(name))
        logits[name] = gives_logits(each, part)
    chosen = {**compiled, **own}
    if given or weighted:
        weights = {name: float((weighted or given).get(name, 1.0)) for name in names}
    else:
        weights = {name: 1.0 if name in chosen else _weight(data.of_output(name)) for name in names}
    return LossByOutput(losses, weights), logits


def _require_one(training: Training, model: Any) -> None:
    """Raise `RecipeError` for settings by output, where there is one."""
    by_name = isinstance(training.loss, dict) and not is_object(training.loss)
    found = {"loss": by_name, "loss_weights": training.loss_weights is not None}
    found["metrics"] = isinstance(training.metrics, dict)
    if asked := [f"Training({name}=...)" for name, given in found.items() if given]:
        raise RecipeError(
            f"{' and '.join(asked)} by output is for models with several; '{model.name}' has one. Give it without a "
            "name, or leave the weights out."
        )


def _by_output(given: Any, names: list[str], what: str) -> dict[str, Any]:
    """Return a setting of the recipe for each output that it names.

    Raises:
        RecipeError: it is not by output, or names others.
    """
    if given is None or given == ():
        return {}
    if not isinstance(given, dict) or is_object(given):
        raise RecipeError(
            f"Training({what}={given!r}) is for models with one output; expected a dict by output, for some or all of "
            f"{', '.join(names)}."
        )
    if unknown := [name for name in given if name not in names]:
        raise RecipeError(
            f"Training({what}=...) is for output {', '.join(unknown)}; the model has {', '.join(names)}. Use these "
            "names."
        )
    return given


def single_outputs(model: Any, data: Dataset) -> dict[str, Any]:
    """Return a model of each output of `model` (tf_keras) by name; they share its layers. "" is the only output."""
    if data.outputs is None:
        return {"": model}
    api = tf_keras()
    return {
        name: api.Model(model.inputs, output, name=f"{model.name}_{number}")
        for number, (name, output) in enumerate(zip(Ports(model, "outputs").names, model.outputs, strict=True))
    }


def _weight(data: Dataset) -> float:
    """Return 1, or for values 1 / the mean variance of the labels, the size of a squared error."""
    if task_of(data).has_probabilities:
        return 1.0
    return float(1 / np.square(TargetScale.of(data.train.guides()).deviation).mean())


def own_metrics(
    training: Training, data: Dataset, part: Split, outputs: Any, logits: Any, *, taken: Collection[str] = ()
) -> dict[str, float]:
    """Return the metrics that the recipe names, by name; with that of the output before it if there are several.

    Args:
        training: names them.
        data: the data set.
        part: the samples of it that are measured.
        outputs: of a model for them, an array, or several in a list or dict.
        logits: whether these are logits; by output if there are several.
        taken: the names of the metrics of the task, which no other metric may have.

    Raises:
        RecipeError: a metric is unknown, has the name of another one, or does not give one number for such labels and
            outputs; or there are no labels.
    """
    if not training.metrics:
        return {}
    if data.labels == "none":
        raise RecipeError("Training(metrics=...) compares outputs with labels, but the data have none. Leave it out.")
    task = task_of(data)
    if data.outputs is None:
        settings: dict[str, Any] = {"": training.metrics}
    else:
        settings = _by_output(training.metrics, list(data.outputs), "metrics")
    predicted, labels = task.by_output(outputs), task.by_output(part.y())
    found: dict[str, float] = {}
    for output, named in settings.items():
        given = named if isinstance(named, list | tuple) else (named,)
        form = logits[output] if output else logits
        for each in given:
            arrays = np.asarray(labels[output]), np.asarray(predicted[output])
            name, value = _measured(each, *arrays, task.by_task()[output].labels, form)
            name = f"{output}_{name}" if output else name
            if name in found or (name in taken and not _is_of_keras(each)):
                raise RecipeError(f"Two metrics are called {name!r}; give one of them another name (name=...).")
            found[name] = value
    return found


def _is_of_keras(setting: Any) -> bool:
    """Return whether a metric of a recipe is a name of Keras, such as "mse": that of the task computes the same."""
    return isinstance(setting, str) and ">" not in setting


def _measured(
    setting: Any, labels: np.ndarray, outputs: np.ndarray, form: LabelForm, logits: bool
) -> tuple[str, float]:
    """Return the name and the value of one metric, fed as Keras feeds it."""

    def fresh() -> Any:
        if setting != "accuracy":
            return metric_named(setting)
        return build_metric(setting, labels.shape, outputs.shape, logits=logits)

    metric = fresh()
    try:
        return str(metric.name), measured(fresh, labels, outputs, form)
    except Exception as error:
        raise RecipeError(
            f"The metric {metric.name} gives no number for labels {labels.dtype} {labels.shape[1:]} and outputs "
            f"{outputs.shape[1:]} of a sample: {reason_of(error).rstrip('.')}. Choose one that fits, or leave it out."
        ) from error
