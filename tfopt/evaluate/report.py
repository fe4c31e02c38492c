"""The report: one row per step, all measured on files and on the same test set."""

import dataclasses
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tfopt.base import terminal
from tfopt.base.finite_json import finite, json_text
from tfopt.base.limits import MIB
from tfopt.base.notebook import table_html
from tfopt.base.weight_statistics import unique_weights
from tfopt.base.words import counted, in_decimals, metric_in_words, shortened
from tfopt.data import Dataset
from tfopt.data.predicting import outputs_for
from tfopt.errors import DataError
from tfopt.evaluate.findings.types import Findings
from tfopt.evaluate.timing import interleaved_times, speedup
from tfopt.tasks import task_of
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.parameters import parameters_of
from tfopt.training.history import History

WIDTH = 120
"""Characters in a line of a report as text; a table with more columns is wider."""
LATENCY_RUNS = 10
"""Timed invocations in each of the rounds."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step, measured on its `.tflite`.

    Attributes:
        metrics: on the full test set, e.g. {"accuracy": 0.87}; None for NaN and infinity, which JSON lacks.
        parameters, nonzero_parameters: numbers in the kernels and biases of the file.
        max_unique_weights: the largest number of distinct values in one kernel.
        bytes, deflated_bytes: of the file, and after zlib at level 9.
        latency_ms: median for one sample on one thread, in milliseconds; after the first row, that of the first row
            divided by `speedup`, since times measured apart differ with what else the machine does.
        macs: multiply-accumulates of one sample, see `tfopt.tflite.read.macs`; None if they cannot be counted.
        speedup: how many times faster than the first row's file, measured side by side.
        seconds: duration of the step, training and measuring.
        history: of the training in the step; None without one.
    """

    step: str
    metrics: dict[str, float | None]
    parameters: int
    nonzero_parameters: int
    max_unique_weights: int
    bytes: int
    deflated_bytes: int
    latency_ms: float | None
    seconds: float
    notes: list[str] = field(default_factory=list)
    macs: int | None = None
    speedup: float | None = None
    history: History | None = None

    def __post_init__(self) -> None:
        """Keep None for metrics that are no finite numbers."""
        object.__setattr__(self, "metrics", finite(self.metrics))


@dataclass(frozen=True)
class Resources:
    """What a run has used.

    Attributes:
        device: what it was trained on, such as "2 CPU cores" or "1 GPU (NVIDIA H200)".
        precision: of the training, see `Training`.
        peak_bytes: the most memory that the process held at a time; None if the system does not tell.
        child_peak_bytes: of the largest child process, e.g. the converter, also in earlier runs of this process; 0 if
            unknown.
    """

    device: str
    precision: str
    peak_bytes: int | None
    child_peak_bytes: int

    def __str__(self) -> str:
        memory = [] if self.peak_bytes is None else [f"at most {self.peak_bytes / MIB:,.0f} MiB of memory"]
        child = [f"{self.child_peak_bytes / MIB:,.0f} MiB in a child process"] if self.child_peak_bytes else []
        return f"{self.device}, {self.precision}; {' and '.join([*memory, *child])}".removesuffix("; ")


@dataclass(frozen=True)
class Report:
    """What a run measured.

    Attributes:
        recipe: as plain data.
        rows: from the original model to the exported file.
        verdict: what failed, or what the validation data cannot tell; may be empty.
        ok: whether the run kept the quality of the model.
        findings: about the exported file; None if not collected.
        resources: what the run has used; None if not collected.
    """

    recipe: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    verdict: str = ""
    ok: bool = True
    findings: Findings | None = None
    resources: Resources | None = None

    def __repr__(self) -> str:
        """Return the number of rows and the last one in short; `print` shows the table."""
        return f"Report({self.summary()}; {counted(len(self.rows), 'row')})"

    def summary(self) -> str:
        """Return the name of the recipe, the last step and its metrics."""
        last = [self.rows[-1].step, *in_words(self.rows[-1].metrics)] if self.rows else ["no rows"]
        return f"{self.recipe.get('name', 'report')}: {', '.join(last)}"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain data."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON that ends in a newline."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return the report that `to_json` wrote.

        Raises:
            DataError: it is not the JSON of a report.
        """
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise DataError(f"This is not the JSON of a report: {error.errors()[0]['msg']}.") from error

    def table(self) -> Any:
        """Return the rows as a `rich.table.Table`."""
        from rich.table import Table

        names = list(self.rows[0].metrics) if self.rows else []
        costs = ("nonzero", "unique", "bytes", "deflated", "MACs", "ms", "speed", "seconds")
        table = Table(title=str(self.recipe.get("name", "report")), title_justify="left")
        table.add_column("step")
        for name in [*map(metric_in_words, names), *costs]:
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(
                row.step,
                *(in_decimals(row.metrics[name]) for name in names),
                f"{row.nonzero_parameters:,} / {row.parameters:,}",
                f"{row.max_unique_weights:,}",
                f"{row.bytes:,}",
                f"{row.deflated_bytes:,}",
                shortened(row.macs),
                "-" if row.latency_ms is None else f"{row.latency_ms:.3f}",
                "-" if row.speedup is None else f"{row.speedup:.2f}x",
                f"{row.seconds:.0f}",
            )
        return table

    def _repr_html_(self) -> str:
        """Return the rows, the notes and the verdict for a notebook."""
        said = [str(line) for line in (self.verdict, self.resources) if line]
        notes = [f"{row.step}: {note}" for row in self.rows for note in row.notes]
        return table_html(self.table(), [*said, *notes])

    def __str__(self) -> str:
        console, table = terminal.console(file=io.StringIO(), width=WIDTH), self.table()
        console.file.write(terminal.rendered(table, terminal.fitting_width(table, least=WIDTH)))
        for row in self.rows:
            for note in row.notes:
                console.print(terminal.plain(f"{row.step}: {note}"))
        verdict = f"{'uncertain' if self.ok else 'failed'}: {self.verdict}" if self.verdict else ""
        for line in filter(None, (self.resources, verdict)):
            console.print(terminal.plain(line))
        return str(console.file.getvalue()).rstrip()


def in_words(metrics: Mapping[str, float | None]) -> list[str]:
    """Return each of `metrics` with its name in words."""
    return [f"{metric_in_words(name)} {in_decimals(value)}" for name, value in metrics.items()]


def answers_on_test(lite: LiteModel, data: Dataset) -> Any:
    """Return the outputs of a file for the test part of `data`, computed on all cores."""
    return outputs_for(LiteModel(lite.data, threads=os.cpu_count() or 1).predict, data.test)


def measured_row(
    step: str,
    lite: LiteModel,
    data: Dataset,
    *,
    seconds: float,
    notes: list[str],
    original: LiteModel | None = None,
    original_ms: float | None = None,
    latency: bool = True,
    logits: Any = False,
    history: History | None = None,
    outputs: Any = None,
) -> Row:
    """Return the measurements of a file: metrics on the full test set, size, and the latency of one sample.

    Args:
        step: name of the row.
        lite: the file.
        data: its test part is used.
        seconds: how long the step took.
        notes: about the step.
        original: the file to whose speed this one is compared, in interleaved rounds.
        original_ms: its latency; None takes that of this file as it is.
        latency: whether to measure times.
        logits: whether the file outputs logits rather than probabilities; by output if there are several.
        history: of the training in the step.
        outputs: from `answers_on_test`; None computes them.
    """
    predictions = answers_on_test(lite, data) if outputs is None else outputs
    kernels = [weight.values for weight in lite.weights()]
    parameters, sample = parameters_of(lite), data.test.x(slice(0, 1))
    files = [lite] if original is None else [lite, original]
    times = interleaved_times(files, [sample] * len(files), runs=LATENCY_RUNS) if latency else []
    ratio = speedup(times[1], times[0]) if len(times) > 1 else None
    milliseconds = float(np.median(times[0])) if times else None
    return Row(
        step=step,
        metrics={**task_of(data).measured(predictions, data.test, logits=logits)},
        parameters=sum(values.size for values in parameters),
        nonzero_parameters=sum(int((values != 0).sum()) for values in parameters),
        max_unique_weights=max((unique_weights(values) for values in kernels), default=0),
        bytes=lite.size,
        deflated_bytes=lite.deflated,
        latency_ms=original_ms / ratio if original_ms and ratio else milliseconds,
        seconds=seconds,
        notes=notes,
        macs=lite.macs(sample),
        speedup=ratio,
        history=history,
    )
