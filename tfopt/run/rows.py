"""The rows of a report: a file of each step of a run, measured on the test part."""

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from tfopt.base.words import in_decimals, metric_in_words
from tfopt.data import Dataset
from tfopt.evaluate.report import Row, answers_on_test, measured_row
from tfopt.run.prepare import Prepared
from tfopt.run.run_data import UNKNOWN
from tfopt.tasks import task_of
from tfopt.tasks.balance import Asked
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.export import build_file
from tfopt.training.class_weights import class_weights
from tfopt.training.compiled_metrics import measured_metrics
from tfopt.training.history import History
from tfopt.training.outputs import own_metrics
from tfopt.training.settings import Training

CLASS_WEIGHTED = "class_weighted_accuracy"
"""Name of the accuracy in which labels have the weights of their classes in training."""


class Rows:
    """The rows of one run so far.

    Attributes:
        rows: in the order of the steps; the list of the report.
        history: of the training that the next row measures; None for none.
    """

    def __init__(self, prepared: Prepared, rows: list[Row]) -> None:
        self._prepared, self.rows = prepared, rows
        self.history: History | None = None

    def add_step(self, step: str, flat_model: Any, notes: list[str], started: float | None = None) -> None:
        """Measure the float file of a model that a `step` has left, begun at the time `started`, and say the result."""
        started, progress = time.perf_counter() if started is None else started, self._prepared.progress
        with progress.during(f"measuring {step}" if self.rows else f"measuring the {step} model"):
            lite = build_file(flat_model, FLOAT, proven=False)
            if not self.rows:
                self.first_file = lite
            row = self.measured(step, lite, notes, started)
        self.append(row)
        metrics = [f"{metric_in_words(name)} {in_decimals(value)}" for name, value in row.metrics.items()]
        progress.say(f"{step}: {', '.join([*metrics, f'{row.deflated_bytes:,} bytes deflated'])}")

    def append(self, row: Row) -> None:
        """Add a row, and tell those who follow the run."""
        self.rows.append(row)
        self._prepared.progress.tell("row", **{**dataclasses.asdict(row), "history": None})

    def measured(self, step: str, lite: LiteModel, notes: list[str], started: float, outputs: Any = None) -> Row:
        """Return the row of a file, with the metrics of the task, of the recipe and those that the model came with.

        Args:
            step: its name.
            lite: the file.
            notes: on the step.
            started: the time at which the step began, as of `time.perf_counter`.
            outputs: of the file on the test part; None computes them.
        """
        prepared, seconds = self._prepared, time.perf_counter() - started
        data, logits = prepared.data, prepared.logits
        history, self.history = self.history, None
        outputs = answers_on_test(lite, data) if outputs is None else outputs
        row = measured_row(
            step,
            lite,
            data,
            seconds=seconds,
            notes=[UNKNOWN, *notes] if data.labels == "none" else notes,
            original=self.first_file if self.rows else None,
            original_ms=self.rows[0].latency_ms if self.rows else None,
            logits=logits,
            history=history,
            outputs=outputs,
        )
        more = own_metrics(prepared.recipe.training, data, data.test, outputs, logits)
        metrics = row.metrics | _class_weighted(prepared.recipe.training, data, outputs, logits)
        metrics |= {name: value for name, value in more.items() if name not in metrics}
        compiled, failed = measured_metrics(prepared.metrics, data, data.test, outputs, logits, taken=metrics)
        unknown = [f"the metric {metric.name!r} cannot be computed: {why}" for metric, why in failed.items()]
        return dataclasses.replace(row, metrics=metrics | compiled, notes=[*row.notes, *unknown])

    @functools.cached_property
    def first_file(self) -> LiteModel:
        """The float file of the model before the first stage; made again for a run that resumes."""
        return build_file(self._prepared.flat_model, FLOAT, proven=False)


def _class_weighted(training: Training, data: Dataset, outputs: Any, logits: Any) -> dict[str, float | None]:
    """Return the class-weighted accuracy of `outputs` for the test part, of each output whose classes have weights."""
    weights = class_weights(training, data)
    if not weights:
        return {}
    task, found = task_of(data), dict[str, float | None]()
    labels, answers = task.by_output(data.test.y()), task.by_output(outputs)
    for name, each in weights.items():
        one = task.by_task()[name]
        asked = Asked.by(one, labels[name])
        assert asked is not None  # it has classes
        right = asked.hits(one, np.asarray(answers[name]), each, logits=logits[name] if name else logits)
        found[f"{name}_{CLASS_WEIGHTED}" if name else CLASS_WEIGHTED] = float(right.mean())
    return found
