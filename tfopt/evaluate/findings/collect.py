"""Collect what a report says about a finished file in addition to its rows."""

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, TypeVar

import numpy as np

from tfopt.data import Dataset
from tfopt.data.arrays_by_name import rows
from tfopt.evaluate.bench import named_outputs, outputs_of
from tfopt.evaluate.findings.anomalies import anomaly_findings
from tfopt.evaluate.findings.classes import calibration, class_findings
from tfopt.evaluate.findings.layers import histograms, layer_findings, signals_of
from tfopt.evaluate.findings.samples import are_pictures, worst_samples
from tfopt.evaluate.findings.types import AnomalyScores, Answers, Findings, Histogram, LayerFinding, Sample
from tfopt.tasks import Reconstruction, anomaly_scores, task_of
from tfopt.tflite.prove.signals import Signal
from tfopt.tflite.prove.types import port_in_words
from tfopt.tflite.read import LiteModel, Port

MOST_SAMPLES = 5000
MOST_VALUES = 2**25
"""Most numbers in all answers together, such as the scores of all pixels of masks; of large ones, fewer are taken."""
MOST_INPUT_VALUES = 2**28
"""The same for inputs, which are in memory as they were read, photos as bytes."""
SIGNAL_SAMPLES = 64
"""Test samples of which the results of all layers are compared; of large inputs, fewer."""
SIGNAL_VALUES = 2**20
"""Most numbers in the inputs of these samples together: the results of all layers are held in memory."""
PACKAGES = (
    *("tfopt", "tensorflow", "keras", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert"),
    *("litert-quantizer", "numpy"),
)
Part = TypeVar("Part")


def collect_findings(
    lite: LiteModel, first: Callable[[], LiteModel], flat_model: Any, data: Dataset, *, logits: Any, outputs: Any = None
) -> Findings:
    """Return the findings about `lite`: one pass over at most `MOST_SAMPLES` test samples, and one over its weights.

    A part that fails becomes a note: a report must not cost a result that took hours.

    Args:
        lite: the finished file, as `build_file` returned it.
        first: makes the float file of the model before the first stage, as `build_file` does.
        flat_model: the tf_keras model of `lite`.
        data: its test part is used.
        logits: whether the file outputs logits rather than probabilities; by output if there are several.
        outputs: of the file for the whole test part; None computes those of the samples that are looked at.
    """
    return _Collector(lite, first, flat_model, data, logits=logits, outputs=outputs).findings()


class _Collector:
    def __init__(
        self,
        lite: LiteModel,
        first: Callable[[], LiteModel],
        flat_model: Any,
        data: Dataset,
        *,
        logits: Any,
        outputs: Any,
    ) -> None:
        self.lite, self.first, self.flat_model, self.data, self.logits = lite, first, flat_model, data, logits
        self.outputs = outputs
        self.notes = list[str]()
        number = min(MOST_SAMPLES, MOST_VALUES // _size(lite.outputs), MOST_INPUT_VALUES // _size(lite.inputs))
        self._chosen = data.test.spread(max(1, number))

    def findings(self) -> Findings:
        signals = self._part("noise of each layer", self._signals, list[Signal]())
        layers = self._part("layers", lambda: layer_findings(self.lite, signals), list[LayerFinding]())
        weights = self._part("histograms of weights", lambda: histograms(self.first(), self.lite), list[Histogram]())
        return Findings(
            samples=len(self._chosen),
            layers=layers,
            histograms=weights,
            answers=self._part("answers", self._answers, []),
            fed=self._part("what the file is fed", self._fed, []),
            versions=versions(),
            notes=self.notes,
        )

    def _part(self, name: str, make: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return make()
        except Exception as error:
            self.notes.append(f"the report has no {name}: {type(error).__name__}: {error}")
            return otherwise

    def _answers(self) -> list[Answers]:
        some = dataclasses.replace(self.data, test=self.data.test.at(self._chosen))
        if self.outputs is None:
            found = outputs_of(self._all_threads(), some)
        else:
            found = named_outputs(self.lite, some, _at(self.outputs, self._chosen))
        return [self._answers_of(name, np.asarray(outputs), some.of_output(name)) for name, outputs in found.items()]

    def _answers_of(self, name: str, outputs: np.ndarray, data: Dataset) -> Answers:
        """Return what there is to say about one output; `data` are the answered samples for it alone."""
        task, names, inputs = task_of(data), data.class_names, data.test.inputs
        logits = self.logits if self.data.outputs is None else self.logits[name]
        if task.labels == "none":
            return Answers(output=name)
        labels, classes, sure, anomalies = data.test.y(), None, None, None
        if task.scores_classes:
            classes = self._part("classes", lambda: class_findings(outputs, labels, task, names, logits=logits), None)
            sure = self._part("calibration", lambda: calibration(outputs, labels, logits=logits), None)
        anomalous = np.asarray(data.test.labels) != 0 if isinstance(task, Reconstruction) else None
        if anomalous is not None:
            anomalies = self._part("anomaly scores", lambda: self._anomalies(name, outputs, data, anomalous), None)
        worst, scored = list[Sample](), ""
        if are_pictures(inputs):
            worst, scored = self._part(
                "worst samples",
                lambda: worst_samples(
                    self._chosen, inputs, outputs, labels, task, names, logits=logits, anomalous=anomalous
                ),
                (worst, scored),
            )
        return Answers(output=name, classes=classes, calibration=sure, anomalies=anomalies, worst=worst, scored=scored)

    def _anomalies(self, name: str, outputs: np.ndarray, data: Dataset, anomalous: np.ndarray) -> AnomalyScores | None:
        normal = self.data.validation.at(self.data.validation.spread(MOST_SAMPLES))
        answered = outputs_of(self._all_threads(), dataclasses.replace(self.data, test=normal))[name]
        scores = anomaly_scores(data.test.x(), outputs)
        return anomaly_findings(scores, anomalous, anomaly_scores(normal.x(), answered))

    def _all_threads(self) -> LiteModel:
        return LiteModel(self.lite.data, threads=os.cpu_count() or 1)

    def _signals(self) -> list[Signal]:
        number = max(1, min(SIGNAL_SAMPLES, SIGNAL_VALUES // _size(self.lite.inputs)))
        return signals_of(self.lite, self.flat_model, self.data.test.x(self.data.test.spread(number)))

    def _fed(self) -> list[str]:
        ports = [f"in: {port_in_words(port)}" for port in self.lite.inputs]
        return [*self.data.describe(), *ports, *(f"out: {port_in_words(port)}" for port in self.lite.outputs)]


def _at(outputs: Any, chosen: np.ndarray) -> Any:
    """Return the `chosen` samples of what a file predicts: an array, or several in a list or dict."""
    return [rows(each, chosen) for each in outputs] if isinstance(outputs, list) else rows(outputs, chosen)


def _size(ports: Sequence[Port]) -> int:
    """Return the number of values of one sample in all `ports`."""
    return max(1, sum(math.prod(axis or 1 for axis in port.shape[1:]) for port in ports))


def versions() -> dict[str, str]:
    """Return the versions of Python, the system and the packages that a result depends on, by name."""
    found = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
