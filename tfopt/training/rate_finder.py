"""find_learning_rate: a short training with rising rates suggests an initial learning rate (Smith 2015)."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.base.plots import save_figure
from tfopt.base.terminal import rendered
from tfopt.data import Dataset
from tfopt.errors import DataError, RecipeError
from tfopt.graph import keras_internals
from tfopt.graph.types import flatten, map_leaves

# Decay of the moving average of the losses, and the minimum number of losses for a curve.
SMOOTHING = 0.9
LEAST_STEPS = 20
# A fall below this fraction of the first loss is ignored.
LEAST_FALL = 0.01
# The search ends when the moving average reaches this multiple of its best.
DIVERGED = 4.0
SHOWN_ROWS = 20


@dataclass(frozen=True)
class LearningRates:
    """The loss as a function of a rising learning rate. `str()` returns a table.

    Attributes:
        rates: (n,) learning rates of the steps, rising.
        losses: (n,) of the batch at each step, before its update.
        smoothed: (n,) exponential moving average of `losses` (0.9), bias-corrected as in Adam. Up to its lowest point
            it is also averaged backward; else it would lag by nine steps, which is a fivefold rate in a sweep of 100.
        suggestion: the rate at which `smoothed` falls most steeply against the logarithm of the rate. It is a good
            initial rate, not the optimum.

    Examples:
        >>> found = tfopt.training.find_learning_rate(model, data, quiet=True)
        >>> isinstance(found, tfopt.training.LearningRates), len(found.rates) == len(found.losses)
        (True, True)
        >>> found.plot("rates.png").name
        'rates.png'
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def table(self) -> Any:
        """Return about twenty of the steps as a `rich.table.Table`, including that of the suggestion."""
        from rich.table import Table

        table = Table()
        for name in ("learning rate", "loss", "smoothed", ""):
            table.add_column(name, justify="right")
        chosen = int(np.argmin(np.abs(self.rates - self.suggestion)))
        for step in sorted({*range(0, len(self.rates), max(1, len(self.rates) // SHOWN_ROWS)), chosen}):
            mark = "suggested" if step == chosen else ""
            table.add_row(f"{self.rates[step]:.3g}", f"{self.losses[step]:.4f}", f"{self.smoothed[step]:.4f}", mark)
        return table

    def __str__(self) -> str:
        said = f"suggested learning rate: {self.suggestion:.3g} (steepest descent of the smoothed loss)"
        return f"{said}\n{rendered(self.table(), 100).rstrip()}"

    def plot(self, path: str | Path) -> Path:
        """Plot loss against learning rate and write it to `path` (.png, .svg, .pdf); return the path.

        Raises:
            OutputError: an unsupported suffix, or a path that cannot be written.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.8", label="loss of the batch")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggested: {self.suggestion:.3g}")
        low, high = float(self.losses.min()), float(2 * self.smoothed[0] - self.smoothed.min())
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.05 * (high - low), high))
        axes.legend()
        return save_figure(figure, path)


def find_learning_rate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    loss: Any = None,
    optimizer: Any = None,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    batch_size: int = 64,
    seed: int = 0,
    quiet: bool = False,
) -> LearningRates:
    """Find a learning rate by training a copy of `model` for a few batches with rising rates.

    The range test of Smith 2015 (arXiv:1506.01186, section 3.3), with rates in geometric progression. It ends early if
    the moving average of the loss reaches four times its best, or the loss is not finite. Frozen layers of `model` stay
    frozen.

    Args:
        model: a Keras 3 or tf_keras model. It is not changed.
        x: inputs, an array (n, ...) or a list or dict of arrays; or a `tf.data.Dataset` of batches (x, y) or (x, y,
            weights); or a `Dataset`, whose training part is used. Data is repeated as needed.
        y: labels (n, ...) if `x` is arrays.
        loss: as in `compile`; None uses the compiled loss.
        optimizer: a name or an optimizer of the model's Keras; None uses the compiled one, or else Adam.
        lowest: the first learning rate.
        highest: the last learning rate.
        steps: 20 or more.
        batch_size: samples per step, unless `x` is a `tf.data.Dataset`.
        seed: of the order of the samples.
        quiet: no progress bar on stderr.

    Returns:
        The rates, the losses and the suggestion.

    Raises:
        RecipeError: a value out of range; no loss, or one that does not fit model and labels, is negative, or never
            falls; too few steps before divergence.
        DataError: no labels, or less than one batch of data.

    Examples:
        >>> found = tfopt.training.find_learning_rate(model, x, y, quiet=True)
        >>> 1e-7 <= found.suggestion <= 10
        True
    """
    if not 0 < lowest < highest or steps < LEAST_STEPS or batch_size < 1:
        raise RecipeError(
            f"Expected 0 < lowest < highest, at least {LEAST_STEPS} steps and a batch_size of 1 or more; got lowest "
            f"{lowest}, highest {highest}, steps {steps}, batch_size {batch_size}."
        )
    batches = _batches(x, y, batch_size, steps, seed)
    copy = _compiled_copy(model, loss, optimizer, lowest)
    sweep = _Sweep(copy, np.geomspace(lowest, highest, steps))
    with _progress(steps, quiet) as advance:
        sweep.run(batches, advance)
    rates, losses = sweep.rates[: len(sweep.losses)], np.array(sweep.losses)
    smoothed, lowest_at = _smoothed(losses)
    return LearningRates(rates, losses, smoothed, _steepest(rates[: lowest_at + 1], smoothed[: lowest_at + 1]))


def _smoothed(losses: np.ndarray) -> tuple[np.ndarray, int]:
    """Return `LearningRates.smoothed`, and the position of the minimum of its forward pass."""
    forwards = _moving_average(losses)
    lowest_at = int(np.argmin(forwards))
    falling = _moving_average(forwards[lowest_at::-1])[::-1]  # later losses may be thousands of times larger
    return np.concatenate([falling, forwards[lowest_at + 1 :]]), lowest_at


def _moving_average(values: np.ndarray) -> np.ndarray:
    """Return the (n,) exponential moving average, bias-corrected (Kingma & Ba 2015, section 3)."""
    mean, means = 0.0, []
    for step, value in enumerate(values, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        means.append(mean / (1 - SMOOTHING**step))
    return np.array(means)


@dataclass
class _Sweep:
    """One training with rising rates, and its results so far."""

    model: Any
    rates: np.ndarray
    losses: list[float] = field(default_factory=list)

    def run(self, batches: Any, advance: Any) -> None:
        def begin(step: int, logs: Any = None) -> None:
            del logs
            self.model.optimizer.learning_rate = float(self.rates[step])

        def end(step: int, logs: Any = None) -> None:
            self._take(float((logs or {})["loss"]), step)
            advance()

        callback = keras_compat.keras_of(self.model).callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
        try:
            # Epochs of one step each, because Keras reports epoch means.
            epochs: Any = {"epochs": len(self.rates), "steps_per_epoch": 1}
            self.model.fit(batches.repeat(), **epochs, callbacks=[callback], shuffle=False, verbose=0)
        except RecipeError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise RecipeError(
                f"'{self.model.name}' cannot be trained with this loss on these labels ({type(error).__name__}: "
                f"{reason}). Give a loss that fits its output and the labels."
            ) from error

    def _take(self, loss: float, step: int) -> None:
        if loss < 0:
            raise RecipeError(
                f"The loss is {loss:.4g} at step {step + 1}; the search compares each loss with the lowest and needs "
                "losses of 0 or more. Add a constant to the loss, or give another one."
            )
        if not math.isfinite(loss):
            self._stop(step, f"the loss is {loss}")
            return
        self.losses.append(loss)
        means = _moving_average(np.array(self.losses))
        if means[-1] > DIVERGED * means.min():
            self._stop(step, f"the loss has risen to {DIVERGED:g} times its best")

    def _stop(self, step: int, why: str) -> None:
        if len(self.losses) < LEAST_STEPS:
            raise RecipeError(
                f"At the learning rate {self.rates[step]:.3g}, step {step + 1}, {why}: too early to see where it "
                "falls. Lower `lowest`, or look for extreme values in the data."
            )
        self.model.stop_training = True


def _steepest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    if smoothed[0] - smoothed.min() <= LEAST_FALL * smoothed[0]:
        raise RecipeError(
            f"The loss did not fall at any learning rate from {rates[0]:.3g} on. Check that the labels and the loss "
            "fit the model, or give a higher `highest`."
        )
    return float(rates[np.argmin(np.gradient(smoothed, np.log(rates)))])


def _batches(x: Any, y: Any, batch_size: int, steps: int, seed: int) -> Any:
    """Return a `tf.data.Dataset` of batches (x, y, ...)."""
    import tensorflow as tf

    if isinstance(x, Dataset):
        _enough(len(x.train), batch_size)
        return x.batches("train", batch_size, shuffle=True, seed=seed, drop_remainder=True)
    if isinstance(x, tf.data.Dataset):
        first = next(iter(x.take(1)), None)
        if first is None:
            raise DataError("The tf.data.Dataset is empty; expected batches (x, y).")
        if not isinstance(first, tuple) or len(first) < 2:
            raise DataError("The tf.data.Dataset has no labels; expected batches (x, y) or (x, y, weights).")
        return x
    if y is None:
        raise DataError("Expected labels: find_learning_rate(model, x, y), or a data set that holds both.")
    arrays = map_leaves(np.asarray, (tuple(x) if isinstance(x, list) else x, tuple(y) if isinstance(y, list) else y))
    counts = sorted({len(array) for array in flatten(arrays)})
    if len(counts) > 1:
        raise DataError(f"Expected as many labels as inputs; got {' and '.join(map(str, counts))}.")
    _enough(counts[0], batch_size)
    order = np.random.default_rng(seed).permutation(counts[0])[: steps * batch_size]
    chosen = map_leaves(lambda array: array[order], arrays)
    return tf.data.Dataset.from_tensor_slices(chosen).batch(batch_size, drop_remainder=True)


def _enough(count: int, batch_size: int) -> None:
    if count < batch_size:
        raise DataError(f"Expected at least one batch of {batch_size} samples; got {count}. Lower batch_size.")


def _compiled_copy(model: Any, loss: Any, optimizer: Any, lowest: float) -> Any:
    if loss is None and not bridge.is_compiled(model):
        raise RecipeError(f"'{model.name}' is not compiled, so it has no loss: give one, find_learning_rate(loss=...).")
    if not model.trainable_weights:
        raise RecipeError(f"All layers of '{model.name}' are frozen, so there is nothing to train.")
    copy = bridge.to_keras(bridge.to_tf_keras(model), like=model)
    settings: dict[str, Any] = {"loss": loss}
    if loss is None:
        compiled = keras_internals.compile_settings(copy) or {}
        settings = {key: compiled.get(key) for key in ("loss", "loss_weights")}
    if optimizer is None:
        optimizer = copy.optimizer if bridge.is_compiled(copy) else "adam"
    copy.compile(optimizer=_at_rate(optimizer, copy, lowest), jit_compile=False, **settings)
    return copy


def _at_rate(optimizer: Any, model: Any, rate: float) -> Any:
    """Return a new optimizer like `optimizer` whose learning rate can be set."""
    package = keras_compat.keras_of(model)
    try:
        optimizer = package.optimizers.get(optimizer)
    except ValueError as error:
        raise RecipeError(f"Unknown optimizer {optimizer!r}. Give the name of one of {package.__name__}.") from error
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # `compile` adds loss scaling if it is needed
    return type(optimizer).from_config({**optimizer.get_config(), "learning_rate": rate})


@contextmanager
def _progress(steps: int, quiet: bool) -> Iterator[Any]:
    """Yield a function to call after each step; in a terminal it drives a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(file=sys.stderr, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("looking for a learning rate", total=steps)
        yield lambda: bar.advance(task)
