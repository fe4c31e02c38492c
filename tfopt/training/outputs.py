"""Training of models with several outputs: what each of them learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.data import Dataset
from tfopt.errors import RecipeError
from tfopt.graph.ports import Ports
from tfopt.tasks import task_of
from tfopt.tasks.scaling import TargetScale
from tfopt.training.loss import choose_loss, gives_logits, loss_for
from tfopt.training.settings import Training


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

    Several outputs get what they are compiled with, else the loss for their labels. Without compiled weights, errors
    of values are divided by the variance of the labels, so that all losses are of similar size.

    Returns:
        For one output what `choose_loss` and `gives_logits` return; for several a `LossByOutput`, and a dict.

    Raises:
        RecipeError: a loss does not fit its output.
    """
    if data.outputs is None:
        return choose_loss(model, training, data), gives_logits(model, data)
    if training.loss is not None:
        raise RecipeError(
            f"Training(loss={training.loss!r}) is for models with one output; '{model.name}' has "
            f"{', '.join(data.outputs)}. Compile it with a loss for each."
        )
    names, alone = list(data.outputs), single_outputs(model, data)
    compiled = bridge.compiled_by_output(model, "loss", names) if bridge.is_compiled(model) else {}
    given = bridge.compiled_by_output(model, "loss_weights", names) if bridge.is_compiled(model) else {}
    losses, logits = {}, {}
    for name, each in alone.items():
        own = data.of_output(name)
        losses[name] = loss_for(each, own, compiled.get(name))
        logits[name] = gives_logits(each, own)
    if given:
        weights = {name: float(given.get(name, 1.0)) for name in names}
    else:
        weights = {name: 1.0 if name in compiled else _weight(data.of_output(name)) for name in names}
    return LossByOutput(losses, weights), logits


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
