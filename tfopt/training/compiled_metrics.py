"""The metrics that a model is compiled with, measured on the samples of a report."""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import is_keras3_model, tf_keras
from tfopt.base.words import reason_of
from tfopt.data import Dataset, Split
from tfopt.tasks import task_of
from tfopt.tasks.task import LabelForm
from tfopt.training.metric_labels import expected_by_loss, measured
from tfopt.training.variables import build_metric

_SAME = {"acc": "accuracy", "mean_squared_error": "mse", "mean_absolute_error": "mae"}
"""Names of Keras for metrics that tasks have under another name."""
_BY_SHAPE = {"accuracy": "accuracy", "acc": "accuracy", "crossentropy": "crossentropy", "ce": "crossentropy"}
"""Names of Keras whose meaning depends on the shapes."""


@dataclass(frozen=True, eq=False)
class CompiledMetric:
    """A metric of one output.

    Args:
        output: its name; "" is the only one.
        setting: a name, a function of labels and outputs, or a metric or its class, of either Keras.
        package: the Keras that the model is of, which knows the name.
        form: of the labels that the compiled loss expects; None if that is not known.
    """

    output: str
    setting: Any
    package: Any
    form: LabelForm | None = None

    @property
    def name(self) -> str:
        """As Keras calls it in its logs, without the name of the output."""
        if isinstance(self.setting, str):
            return self.setting
        of_class = getattr(self.setting, "__name__", type(self.setting).__name__)
        return str(of_class if isinstance(self.setting, type) else getattr(self.setting, "name", of_class))

    def measure(self, labels: np.ndarray, outputs: np.ndarray, *, form: LabelForm, logits: bool) -> float:
        """Return the value of a fresh copy of the metric, fed as Keras feeds it.

        Args:
            labels: of the samples (n, ...).
            outputs: of a model for them.
            form: of the labels; the metric gets them in the form that it expects.
            logits: whether these are logits, which counts for "accuracy" alone, as in `fit`.

        Raises:
            Exception: whatever the metric raises; a TypeError if it does not compare outputs with labels.
        """
        return measured(lambda: self._fresh(labels, outputs, logits=logits), labels, outputs, form, self.form)

    def _fresh(self, labels: np.ndarray, outputs: np.ndarray, *, logits: bool) -> Any:
        if isinstance(self.setting, str) and self.setting in _BY_SHAPE:
            return build_metric(_BY_SHAPE[self.setting], labels.shape, outputs.shape, logits=logits)
        found = self.package.metrics.get(self.setting) if isinstance(self.setting, str) else self.setting
        found = found() if isinstance(found, type) else found
        if not hasattr(found, "update_state"):
            return self.package.metrics.MeanMetricWrapper(found, name=self.name)
        if list(inspect.signature(type(found).update_state).parameters)[2:3] == ["sample_weight"]:
            raise TypeError("it takes values and their weights, not labels and outputs")
        return type(found).from_config(found.get_config())


def compiled_metrics(model: Any, data: Dataset) -> tuple[CompiledMetric, ...]:
    """Return the metrics that `model` is compiled with, by output, but for those that the task has under that name.

    Args:
        model: of either Keras.
        data: for it.
    """
    if data.labels == "none" or not bridge.is_compiled(model):
        return ()
    package: Any = tf_keras()
    if is_keras3_model(model):
        import keras

        package = keras
    task, found = task_of(data), list[CompiledMetric]()
    names = list(data.outputs or ("",))
    losses = bridge.compiled_by_output(model, "loss", names)
    for output, settings in bridge.compiled_metrics(model, names).items():
        known = task.by_task()[output].formulas
        form = expected_by_loss(losses[output]) if output in losses else None
        found += [
            CompiledMetric(output, each, package, form)
            for each in settings
            if not (isinstance(each, str) and _SAME.get(each, each) in known)
        ]
    return tuple(found)


def measured_metrics(
    metrics: Sequence[CompiledMetric],
    data: Dataset,
    part: Split,
    outputs: Any,
    logits: Any,
    *,
    taken: Collection[str],
) -> tuple[dict[str, float | None], dict[CompiledMetric, str]]:
    """Return the values of metrics by name, and why some have none.

    Args:
        metrics: of `compiled_metrics`.
        data: the data set.
        part: the samples of it that are measured.
        outputs: of a model for them, an array, or several in a list or dict.
        logits: whether these are logits; by output if there are several.
        taken: names that other metrics have; one of these begins with "compiled_".

    Returns:
        A value for each metric, None where it raises an error; and the reasons of these errors, by metric.
    """
    task, found, failed = task_of(data), dict[str, float | None](), dict[CompiledMetric, str]()
    predicted, labels = task.by_output(outputs), task.by_output(part.y())
    for metric in metrics:
        output = metric.output
        name = f"{output}_{metric.name}" if output else metric.name
        while name in taken or name in found:
            name = f"compiled_{name}"
        try:
            found[name] = metric.measure(
                np.asarray(labels[output]),
                np.asarray(predicted[output]),
                form=task.by_task()[output].labels,
                logits=logits[output] if output else logits,
            )
        except Exception as error:
            found[name], failed[metric] = None, reason_of(error).rstrip(".")
    return found, failed


def usable_metrics(
    model: Any, data: Dataset, some: Split, outputs: Any, logits: Any
) -> tuple[tuple[CompiledMetric, ...], list[str]]:
    """Return the compiled metrics of `model` that can be measured from labels and outputs, and notes on the others.

    Args:
        model: of either Keras.
        data: for it.
        some: a few samples of it to try them on.
        outputs: of the model for these.
        logits: whether these are logits; by output if there are several.
    """
    metrics = compiled_metrics(model, data)
    _, failed = measured_metrics(metrics, data, some, outputs, logits, taken=())
    notes = [
        f"the metric {metric.name!r} that the model is compiled with is not in the report, since it cannot be computed "
        f"from labels and outputs alone: {why}"
        for metric, why in failed.items()
    ]
    if metrics or bridge.is_compiled(model):
        weighted = bridge.compiled_metrics(model, list(data.outputs or ("",)), "weighted_metrics")
        if any(weighted.values()):
            notes.append("the weighted metrics of the model are not in the report, which weighs no samples")
    return tuple(metric for metric in metrics if metric not in failed), notes
