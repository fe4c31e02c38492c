"""Create the variables of the optimizer and the metrics before `fit`.

tf_keras creates them in the first training step, and TensorFlow traces a step that creates variables twice.
"""

from collections.abc import Sequence
from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.metrics import threshold


def build_optimizer(optimizer: Any, model: Any) -> Any:
    """Return the tf_keras `optimizer`, with its variables for everything that `model` trains."""
    with model.distribute_strategy.scope():
        optimizer.build(model.trainable_variables)
    return optimizer


def build_metric(
    name: str, labels: Sequence[int | None], outputs: Sequence[int | None], *, logits: bool = False
) -> Any:
    """Return the metric that tf_keras makes of `name`, with its variables.

    Args:
        name: a name that `compile` takes.
        labels: the shape of the labels, with the batch axis.
        outputs: the shape of the model's output, with the batch axis.
        logits: whether the output is a logit: a binary accuracy then has the threshold 0 instead of 0.5.
    """
    metrics = tf_keras().metrics
    kind = f"{_by_shape(labels, outputs)}_{name}" if name in ("accuracy", "crossentropy") else name
    if kind == "binary_accuracy":
        return metrics.BinaryAccuracy(name=name, threshold=threshold(logits=logits))
    function = metrics.get(kind)
    return metrics.MeanMetricWrapper(function, name=name)


def _by_shape(labels: Sequence[int | None], outputs: Sequence[int | None]) -> str:
    """Return which kind tf_keras means by "accuracy" or "crossentropy", which depends on the shapes."""
    labels = (*labels, 1) if len(labels) == 1 else labels  # as Keras gives them to a metric
    if outputs[-1] == 1:
        return "binary"
    return "sparse_categorical" if len(labels) < len(outputs) or labels[-1] == 1 else "categorical"
