"""Measure how each layer tolerates fewer bits, one by one."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.notebook import table_html
from tfopt.base.plots import save_figure
from tfopt.base.renamed import renamed_arguments
from tfopt.base.terminal import rendered
from tfopt.base.weight_statistics import decibels
from tfopt.data import Dataset, fit_to_ports, load_data, require_one_input_and_output
from tfopt.errors import DataError
from tfopt.graph.layer_facts import facts_of
from tfopt.models.sources import model_from
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import Kernel, kernels_by_key
from tfopt.stages.quantize.grids import grid_of
from tfopt.tasks import task_of
from tfopt.tasks.responses import are_logits

SAMPLES = 2000
# In decibels, for equal outputs: beyond the precision of float32.
EQUAL = 160.0


@dataclass(frozen=True)
class Trial:
    """One kernel at reduced bits, all others in float.

    Attributes:
        layer, weight: identify the kernel.
        bits: of each of its weights.
        metric: on the samples.
        drop: of the metric from that of the float model; negative if it rose.
        sqnr: signal to quantization noise of the model's outputs, 10 log10(sum(x^2) / sum((x - y)^2)) decibels.
        bytes: size of the kernel at these bits.
    """

    layer: str
    weight: str
    bits: int
    metric: float
    drop: float
    sqnr: float
    bytes: int


@dataclass(frozen=True)
class Sensitivity:
    """The loss of a model when one kernel at a time gets fewer bits.

    Attributes:
        metric: its name.
        before: of the float model.
        samples: number of samples measured.
        trials: layer by layer, from input to output.
        left_out: kernels that no file can hold in fewer than 8 bits, such as those of an LSTM, as (layer, weight).

    Examples:
        >>> found = tfopt.sensitivity(model, data, bits=(8, 2))
        >>> isinstance(found, tfopt.Sensitivity), found.bits
        (True, (8, 2))
        >>> found.of(("second", "kernel"), 2).bytes, found.of(("second", "kernel"), 8).bytes
        (144, 576)
        >>> found.plot("sensitivity.png").name
        'sensitivity.png'
    """

    metric: str
    before: float
    samples: int
    trials: tuple[Trial, ...]
    left_out: tuple[Key, ...] = ()

    @property
    def bits(self) -> tuple[int, ...]:
        """The bit widths that were tried, largest first."""
        return tuple(sorted({trial.bits for trial in self.trials}, reverse=True))

    def of(self, key: Key, bits: int) -> Trial:
        """Return the trial of the kernel `key`, (layer, weight), at `bits`."""
        return next(t for t in self.trials if (t.layer, t.weight) == key and t.bits == bits)

    def table(self) -> Any:
        """Return a `rich.table.Table` with a row for each kernel."""
        from rich.table import Table

        title = f"one kernel at a time: loss of {self.metric} ({self.before:.4f} in float, {self.samples:,} samples)"
        others = ", ".join(map(_described, self.left_out))
        caption = f"not tried, since a file holds them in 8 bits: {others}" if others else None
        table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("kernel", overflow="fold")
        for bits in self.bits:
            for column in (f"{bits} bits: loss", "SQNR, dB", "bytes"):
                table.add_column(column, justify="right")
        for key in dict.fromkeys((trial.layer, trial.weight) for trial in self.trials):
            cells = [self.of(key, bits) for bits in self.bits]
            row = [cell for t in cells for cell in (f"{t.drop:+.4f}", f"{t.sqnr:.1f}", f"{t.bytes:,}")]
            table.add_row(_described(key), *row)
        return table

    def plot(self, path: str | Path) -> Path:
        """Write a plot of the losses and SQNR by kernel; the suffix of `path` selects the format."""
        from matplotlib.figure import Figure

        names = [_described(key) for key in dict.fromkeys((t.layer, t.weight) for t in self.trials)]
        figure = Figure(figsize=(max(9.0, 0.25 * len(names)), 6), layout="constrained")  # inches; a label needs 0.25
        losses, signals = figure.subplots(2, 1, sharex=True)
        for bits in self.bits:
            trials = [trial for trial in self.trials if trial.bits == bits]
            losses.plot(names, [trial.drop for trial in trials], marker="o", label=f"{bits} bits")
            signals.plot(names, [trial.sqnr for trial in trials], marker="o", label=f"{bits} bits")
        losses.set_ylabel(f"loss of {self.metric}")
        signals.set_ylabel("SQNR of the outputs, dB")
        losses.axhline(0, color="gray", linewidth=0.5)
        losses.legend()
        signals.set_xticks(range(len(names)), names, rotation=60, horizontalalignment="right", rotation_mode="anchor")
        return save_figure(figure, path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return table_html(self.table())

    def __str__(self) -> str:
        return rendered(self.table(), 140).rstrip()


@renamed_arguments(ranges="weight_steps")
def sensitivity(
    model: Any,
    data: Any,
    *,
    bits: Sequence[int] = (8, 4, 2),
    weight_steps: str = "mse",
    samples: int = SAMPLES,
    progress: Any = None,
) -> Sensitivity:
    """Quantize one kernel at a time and measure the loss, with everything else in float.

    Args:
        model: a Keras 3 or tf_keras model, or the path of one. It is not changed.
        data: a `Dataset`, or anything `load_data` accepts; the validation part is used.
        bits: 2 to 8 each.
        weight_steps: how quantization steps are chosen: "max", "mse" or "octav".
        samples: maximum number from the validation part.
        progress: called with (done, all) after each trial; may be None.

    Returns:
        The trials.

    Raises:
        ModelError, DataError: for what cannot be measured.
        RecipeError: for other `bits` or `weight_steps`.

    Examples:
        >>> found = tfopt.sensitivity(model, data, bits=(8, 4))
        >>> [trial.layer for trial in found.trials if trial.bits == 4]
        ['first', 'second', 'head']
    """
    loaded = model_from(model)
    require_measurable(loaded)
    flat_model = bridge.to_tf_keras(loaded)
    dataset = data if isinstance(data, Dataset) else load_data(data)
    fit_to_ports(dataset, flat_model)
    judge = Judge(flat_model, dataset, samples)
    found = low_bit_kernels(flat_model)
    trials = []
    for key, kernel in found.items():
        for number in bits:
            after, sqnr = judge.with_bits({key: number}, weight_steps)
            size = math.ceil(math.prod(kernel.shape) * number / 8)
            trials.append(Trial(*key, number, after, judge.loss(after), sqnr, size))
            if progress is not None:
                progress(len(trials), len(found) * len(bits))
    left_out = tuple(key for key in kernels_by_key(flat_model.layers) if key not in found)
    return Sensitivity(judge.metric, judge.before, judge.samples, tuple(trials), left_out)


def require_measurable(model: Any) -> None:
    """Raise `ModelError` unless the Keras `model` has one input and one output."""
    instead = "export others with fewer bits and compare in Python, with LiteModel.predict"
    require_one_input_and_output(model, f"'{model.name}'", instead)


def low_bit_kernels(flat_model: Any) -> dict[Key, Kernel]:
    """Return the kernels of a flat tf_keras model that may have fewer than 8 bits, from input to output."""
    layers = [layer for layer in flat_model.layers if facts_of(layer).low_bit]
    return kernels_by_key(layers)


class Judge:
    """The loss of a model on validation samples when some of its kernels have fewer bits."""

    def __init__(self, flat_model: Any, data: Dataset, samples: int) -> None:
        self.model = bridge.clone(flat_model)
        self.task = task_of(data)
        chosen = data.validation.spread(samples)
        self.x, self.y = data.validation.x(chosen), data.validation.y(chosen)
        if not len(self.x):
            raise DataError("Expected validation samples to measure on, got none.")
        self.samples = len(self.x)
        self.outputs = self._predict()
        self.logits = are_logits(self.outputs, self.task)
        metrics = self.task.metrics(self.outputs, self.y, logits=self.logits)
        self.metric = next(iter(metrics))
        self.before = metrics[self.metric]

    def with_bits(self, bits: Mapping[Key, int], weight_steps: str) -> tuple[float, float]:
        """Return (metric, SQNR in decibels) with these kernels rounded to nearest."""
        known = kernels_by_key(self.model.layers)
        chosen = [(known[key], number) for key, number in bits.items()]
        before = [kernel.values for kernel, _ in chosen]
        for kernel, number in chosen:
            kernel.variable.assign(grid_of(kernel, number, weight_steps).values(kernel.values))
        outputs = self._predict()
        for (kernel, _), values in zip(chosen, before, strict=True):
            kernel.variable.assign(values)
        noise, power = np.square(outputs - self.outputs).sum(), np.square(self.outputs).sum()
        return self.task.metrics(outputs, self.y, logits=self.logits)[self.metric], min(EQUAL, decibels(power, noise))

    def loss(self, after: float) -> float:
        """Return how much worse `after` is than the float model; regression errors grow."""
        return after - self.before if self.task.smaller_is_better else self.before - after

    def _predict(self) -> np.ndarray:
        return np.asarray(self.model.predict(self.x, batch_size=256, verbose=0), np.float64)


def _described(key: Key) -> str:
    layer, weight = key
    return layer if weight == "kernel" else f"{layer}/{weight}"
