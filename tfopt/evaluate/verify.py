"""Verify a `.tflite` against its Keras model: outputs, accuracy, and the signal in every layer."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.annotations import annotations
from tfopt.base.notebook import table_html
from tfopt.base.renamed import renamed_arguments
from tfopt.base.terminal import plain, rendered
from tfopt.base.words import metric_in_words
from tfopt.data import Dataset
from tfopt.data.for_model import measurable
from tfopt.data.front_end import FrontEnd
from tfopt.data.predicting import outputs_for
from tfopt.errors import ModelError
from tfopt.evaluate.bench import outputs_of, ports_by_output
from tfopt.evaluate.chance import forgotten, tell_of_other_classes
from tfopt.graph.variables import unchanged
from tfopt.models.sources import model_from
from tfopt.tasks import task_of
from tfopt.tasks.metrics import agreement, wilson_interval
from tfopt.tasks.responses import are_logits
from tfopt.tflite.prove.outputs import OutputProof, compare_output, most_noise, output_step
from tfopt.tflite.prove.signals import LEAST_DB, Signal
from tfopt.tflite.prove.signals import layer_signals as signals_of
from tfopt.tflite.read import LiteModel, Port
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.calibration import output_names
from tfopt.tflite.write.converter import convert

# Number of test samples for the comparison of layer outputs.
SIGNAL_SAMPLES = 256


@dataclass(frozen=True)
class ComparedOutput:
    """The differences of one output of a file from its model's.

    Attributes:
        name: of the output; "" for the only one.
        largest, mean: absolute difference, in its unit.
        agreement: fraction of samples with the same class; None if the task has no classes.
        metrics: of the model and of the file, by name.
        interval: 95% confidence interval of the file's accuracy (Wilson); None if the task has no classes.
        proof: noise and classes compared with what a file of its weights may have, see `tfopt.tflite.prove.outputs`.
        chance: accuracy of always predicting the most frequent class; None where the file is better, or the
            model is not.
    """

    name: str
    largest: float
    mean: float
    agreement: float | None
    metrics: dict[str, tuple[float, float]]
    interval: tuple[float, float] | None
    proof: OutputProof
    chance: float | None = None

    @property
    def problems(self) -> list[str]:
        """The reasons why it does not match the model's."""
        lines = [f"output {self.proof.name}: {failure}" for failure in self.proof.failures]
        if self.chance is not None:
            lines.append(f"its accuracy is that of guessing the most frequent class, {self.chance:.4f}")
        return lines

    def lines(self) -> list[str]:
        """Return the comparison as readable lines."""
        of = f"{self.name}: " if self.name else ""
        lines = [f"{of}outputs differ by at most {self.largest:.4g}, {self.mean:.4g} on average"]
        if self.agreement is not None:
            lines.append(f"{of}same class: {self.agreement:.2%}")
        for name, (model, file) in self.metrics.items():
            lines.append(f"{of}{metric_in_words(name)}: model {model:.4f}, file {file:.4f}")
        if self.interval:
            lines[-1] += f" (95 % interval {self.interval[0]:.4f} to {self.interval[1]:.4f})"
        return [*lines, f"output {self.proof}"]


@dataclass(frozen=True)
class Verification:
    """The differences between a file and its model.

    Attributes:
        samples: number of test samples.
        outputs: the comparison of each output.
        signals: of the operators, from input to output.
        not_compared: operators of the file without a counterpart in the float model.
        least_db: the threshold below which a layer is bad.
    """

    samples: int
    outputs: tuple[ComparedOutput, ...]
    signals: tuple[Signal, ...]
    not_compared: tuple[str, ...]
    least_db: float = LEAST_DB

    @property
    def largest(self) -> float:
        """The largest absolute difference of an output."""
        return max(output.largest for output in self.outputs)

    @property
    def agreement(self) -> float | None:
        """The smallest fraction of samples with the same class; None if no output has classes."""
        return min((output.agreement for output in self.outputs if output.agreement is not None), default=None)

    @property
    def first_bad(self) -> Signal | None:
        """The first layer whose signal is below `least_db`."""
        return next((signal for signal in self.signals if signal.sqnr < self.least_db), None)

    @property
    def problems(self) -> tuple[str, ...]:
        """The reasons why the file does not match the model; empty if it does."""
        lines = [problem for output in self.outputs for problem in output.problems]
        if self.signals and all(signal.sqnr < self.least_db for signal in self.signals):
            lines.append(f"no layer has {self.least_db:g} dB")
        return tuple(lines)

    def table(self) -> Any:
        """Return the signals as a `rich.table.Table`."""
        from rich.table import Table

        table = Table(title="signal to quantization noise, from input to output", title_justify="left")
        table.add_column("layers", overflow="fold")
        table.add_column("operator")
        table.add_column("SQNR, dB", justify="right")
        for signal in self.signals:
            bad = " below" if signal.sqnr < self.least_db else ""
            table.add_row(signal.layers, signal.operator, f"{signal.sqnr:.1f}{bad}")
        return table

    def lines(self) -> list[str]:
        """Return everything but the table as readable lines."""
        lines = [f"{self.samples:,} test samples", *(line for output in self.outputs for line in output.lines())]
        if self.not_compared:
            lines.append(f"no float counterpart: {', '.join(self.not_compared)}")
        bad = self.first_bad
        lines.append(
            f"every layer has at least {self.least_db:g} dB"
            if bad is None
            else f"first bad layer: {bad.layers} ({bad.operator}), {bad.sqnr:.1f} dB"
        )
        return lines

    def _repr_html_(self) -> str:
        """Return the table and the lines for a notebook."""
        return table_html(self.table(), self.lines())

    def __str__(self) -> str:
        return "\n".join([rendered(self.table(), 120).rstrip(), *map(plain, self.lines())])


@renamed_arguments(preprocess="preprocessing")
def verify_file(
    model: Any,
    file: str | Path | LiteModel,
    data: Any,
    *,
    preprocessing: str | FrontEnd | None = None,
    limit: int | None = None,
    least_db: float = LEAST_DB,
    allow_unsafe: bool = False,
) -> Verification:
    """Compare `file` with the Keras `model` (or its path) on the test part of `data`.

    `preprocessing` is as for `load_data`; None leaves it to what is stated beside the model or in the file.

    Raises:
        ModelError: the two differ in inputs or outputs.
        DataError: data that does not fit.
    """
    loaded = model_from(model, allow_unsafe=allow_unsafe)
    lite = file if isinstance(file, LiteModel) else LiteModel(file)
    ends = [[tuple(end.shape[1:]) for end in ends] for ends in (loaded.inputs, loaded.outputs)]
    own = [[tuple(port.shape[1:]) for port in ports] for ports in (lite.inputs, lite.outputs)]
    if not all(_all_same(one, other) for one, other in zip(ends, own, strict=True)):
        raise ModelError(f"The model and the file do not match: (inputs, outputs) are {ends} and {own}.")
    places = (annotations(loaded).path, file, lite)
    dataset = measurable(loaded, data, preprocessing=preprocessing, limit=limit, beside=places)
    return _verified(loaded, lite, dataset, least_db)


def _all_same(ones: list[tuple[int | None, ...]], others: list[tuple[int | None, ...]]) -> bool:
    return len(ones) == len(others) and all(_same(one, other) for one, other in zip(ones, others, strict=True))


def _same(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    return len(one) == len(other) and all(a == b or None in (a, b) for a, b in zip(one, other, strict=True))


def _verified(model: Any, lite: LiteModel, data: Dataset, least_db: float) -> Verification:
    predict = functools.partial(model.predict, batch_size=64, verbose=0)
    with unchanged(model):
        expected = task_of(data).by_output(outputs_for(predict, data.test))
    found = outputs_of(lite, data)
    ports = ports_by_output(lite, data)
    signals, missing = layer_signals(model, lite, data.test.x(data.test.spread(SIGNAL_SAMPLES)))
    return Verification(
        samples=len(data.test),
        outputs=tuple(
            _compared(name, np.asarray(expected[name]), found[name], data.of_output(name), lite, ports[name])
            for name in expected
        ),
        signals=tuple(signals),
        not_compared=tuple(missing),
        least_db=least_db,
    )


def _compared(
    name: str, expected: np.ndarray, found: np.ndarray, data: Dataset, lite: LiteModel, port: Port
) -> ComparedOutput:
    """Compare one output; `data` are those for it alone."""
    tell_of_other_classes(data, found, "the file")
    difference, task = np.abs(found.astype(np.float64) - expected), task_of(data)
    proof = compare_output(
        port.name,
        expected,
        found,
        most_noise=most_noise(weight.tensor.dtype for weight in lite.weights()),
        classes=task.scores_classes,
        step=output_step(lite, port),
        must_vary=port.dtype == "float32",
    )
    logits = are_logits(expected, task)
    values = [task.measured(outputs, data.test, logits=logits) for outputs in (expected, found)]
    before, after = (each.get("accuracy", 0.0) for each in values)
    lost = forgotten(task, data.test.y(), found, before, logits=logits) if task.has_classes else None
    return ComparedOutput(
        name=name,
        largest=float(difference.max()),
        mean=float(difference.mean()),
        agreement=agreement(expected, found, logits=logits) if task.scores_classes else None,
        metrics={metric: (values[0][metric], values[1][metric]) for metric in values[0]},
        interval=wilson_interval(round(after * len(data.test)), len(data.test)) if task.has_classes else None,
        proof=proof,
        chance=lost.of_guess if lost else None,
    )


def layer_signals(model: Any, lite: LiteModel, x: Any) -> tuple[list[Signal], list[str]]:
    """Return the `Signal` of each operator of `lite` on the samples `x`, and the operators without a counterpart.

    Counterparts are found in the float `.tflite` of `model`, by the order of operators and their output shapes; its
    tensors carry the layer names.
    """
    flat_model = bridge.to_tf_keras(model)
    reference = LiteModel(convert(flat_model, FLOAT))
    layers = [layer.name for layer in flat_model.layers]
    return signals_of(reference, lite, x, layers, output_names(flat_model))
