"""What a `.tflite` computes beside what its Keras model computes, output by output and channel by channel.

For E[n, c], what Keras gives in channel c (of the last axis) at sample and place n, and F[n, c], what the file gives:

- noise of a channel: mean((F - E)^2) / var(E). Of a yes-or-no decision at the mean of a Gaussian channel, noise v turns
  atan(sqrt(v)) / pi: a tenth of them for v = 0.1, a seventh for v = 0.25.
- Errors of `FREE_STEPS` int8 steps over the channel's own range (from zero on, and all of [0, 1] for probabilities) are
  always allowed: less cannot be asked of int8. A channel that varies by less than `NARROW_STEPS` such steps, as in an
  untrained model, counts in the sum over all channels only, where the steps are those over the range of all; so do
  all channels, if none varies by more than that.
- Of few values the variance is known badly, so its upper bound counts (chi-squared, by Wilson and Hilferty 1931).
- Classes are compared where the model is sure: where its two best scores are further apart than allowed noise turns.
- A channel that has `FEWEST_VALUES` different values or fewer, where its own int8 scale would show many, has collapsed.

Who runs the two sides is `sides.py`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfopt.tasks.metrics import wilson_interval
from tfopt.tflite.read import LiteModel, Port

MOST_NOISE = {"int4": 0.25, "int8": 0.1}
"""By the narrowest weights of a file. Rounding Gaussian weights to 4 bits costs 1.5 % of each layer's power."""
MOST_FLOAT_NOISE = 1e-3
LEAST_AGREEMENT = 0.9
"""Share of the places the model is sure of that must get its class: noise of 0.1 leaves as many yes-or-no decisions."""
INT8_STEPS = 255
FREE_STEPS = 2.0
"""Root mean square of an error that is always allowed, in int8 steps over the channel's own range."""
NARROW_STEPS = 4.0
"""Standard deviation, in the same steps, from which on a channel is judged by itself: a Gaussian one has 40 to 60."""
CLEAR = 2 * math.sqrt(2)
"""Two standard deviations of the difference of two scores, in standard deviations of one."""
FEWEST_VALUES, MANY_VALUES = 3, 16
"""As many different values at most are a collapse, where the channel's own int8 scale shows as many as this."""
DEVIATIONS = 2.0
"""Of the upper bound of a variance."""
MOST_ROWS = 2**18
"""Samples and places of an output that are looked at, evenly spread."""

SUM_TOLERANCE = 0.02
"""By which probabilities, perhaps in steps of 1/256, may miss a sum of 1."""
_UNKNOWN = 1e12
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class OutputProof:
    """How far an output of the file is from the model's.

    Attributes:
        name: of the output.
        noise: of all channels: summed squared differences by summed variances. 0 is equal.
        channel, channel_noise: the channel that is worst beside what it may be.
        agreement: share of places with the same class, where the model is sure; None for what are no classes.
        sure: how many places that is.
        failures: what is below its floor, in words; empty for a sound output.
        narrow: how many channels vary by less than `NARROW_STEPS` steps of int8, so that little is proven of them.
        step: of the file's scale; None in float.
        deviation: standard deviation of the worst channel in Keras.
    """

    name: str
    noise: float
    channel: int | None = None
    channel_noise: float = 0.0
    agreement: float | None = None
    sure: int = 0
    failures: tuple[str, ...] = ()
    narrow: int = 0
    step: float | None = None
    deviation: float = 0.0

    @property
    def narrower_than_a_step(self) -> bool:
        """Whether the file's scale for the whole output is too coarse for the worst channel."""
        return self.step is not None and self.step > self.deviation > 0

    def __str__(self) -> str:
        parts = [f"'{self.name}' noise {self.noise:.2g}"]
        if self.channel is not None:
            parts.append(f"worst channel {self.channel}: {self.channel_noise:.2g}")
        if self.agreement is not None:
            parts.append(f"same class {self.agreement:.1%} of {self.sure:,} sure ones")
        if self.narrow:
            parts.append(f"{self.narrow} channels vary by less than {NARROW_STEPS:g} int8 steps of their own range")
        return ", ".join(parts)


def most_noise(dtypes: Iterable[str]) -> float:
    """Return the noise that an output channel of a file with weights of these types may have."""
    held = set(dtypes)
    return next((noise for dtype, noise in MOST_NOISE.items() if dtype in held), MOST_FLOAT_NOISE)


def output_step(lite: LiteModel, port: Port) -> float | None:
    """Return the scale of an output, or of the integers that it is made from at last; None where all is float."""
    if port.scales:
        return port.scales[0]
    scales = {tensor.index: tensor.scales for tensor in lite.tensors() if tensor.subgraph == 0}
    sources = [op for op in lite.ops() if op.subgraph == 0 and op.name == "DEQUANTIZE" and op.outputs[0] == port.index]
    return next((scales[op.inputs[0]][0] for op in sources if scales[op.inputs[0]]), None)


def compare_output(
    name: str,
    expected: NDArray[np.generic],
    found: NDArray[np.generic],
    *,
    most_noise: float,
    classes: bool = False,
    step: float | None = None,
) -> OutputProof:
    """Compare one output of a file with the model's.

    Args:
        name: of the output.
        expected: what Keras gives, (samples, ..., channels) or (samples,).
        found: what the file gives, of the same shape and in the same units.
        most_noise: of a channel, as a share of its variance.
        classes: whether the channels are scores of classes; probabilities are recognized by their sum.
        step: of the scale with which the file stores it.

    Returns:
        The figures, and what is below its floor.
    """
    if expected.shape != found.shape:
        return OutputProof(name, math.inf, failures=(f"shape {found.shape} instead of {expected.shape}",))
    if expected.dtype.kind in "iub":
        return _compare_integers(name, expected, found)
    want, got = (_rows(array) for array in (expected, found))
    known = np.isfinite(want)
    if not np.isfinite(got[known]).all():
        return OutputProof(name, math.inf, failures=("NaN or infinity where the model gives finite numbers",))
    want, got = np.where(known, want, 0), np.where(known, got, 0)
    if not want.size:
        return OutputProof(name, 0.0)
    return _compare(name, want, got, most_noise, classes, step)


def _compare(name: str, want: Matrix, got: Matrix, most_noise: float, classes: bool, step: float | None) -> OutputProof:
    errors, variances = np.square(got - want).mean(axis=0), want.var(axis=0)
    own_steps = _own_steps(want)
    free = np.square(FREE_STEPS * own_steps)
    count, channels = want.shape
    allowed = most_noise * variances * _uncertainty(count - 1) + free
    common = _own_steps(want.reshape(-1, 1))[0]
    wide = variances > np.square(NARROW_STEPS * own_steps)
    wide &= variances.max() > np.square(NARROW_STEPS * common)  # else nothing varies beside what it is
    worst = int(np.argmax(np.where(wide, errors / np.maximum(allowed, np.finfo(float).tiny), -1)))
    sure, same = _classes(want, got, most_noise * variances + free) if classes or _is_distribution(want) else (0, 0)

    def failures() -> Iterator[str]:
        total = most_noise * variances.sum() * _uncertainty((count - 1) * channels)
        if errors.sum() > total + channels * np.square(FREE_STEPS * common):
            yield f"noise {_ratio(errors.sum(), variances.sum()):.2g} (at most {most_noise:g})"
        if channels > 1 and wide[worst] and errors[worst] > allowed[worst]:
            yield f"channel {worst} has noise {_ratio(errors[worst], variances[worst]):.2g} (at most {most_noise:g})"
        yield from _collapsed(want[:, wide], got[:, wide], own_steps[wide], np.flatnonzero(wide))
        if sure and wilson_interval(same, sure)[1] < LEAST_AGREEMENT:
            yield f"the same class for {same / sure:.1%} of {sure:,} sure ones (at least {LEAST_AGREEMENT:.0%})"

    return OutputProof(
        name=name,
        noise=_ratio(errors.sum(), variances.sum()),
        channel=worst if channels > 1 and wide[worst] else None,
        channel_noise=_ratio(errors[worst], variances[worst]),
        narrow=int((~wide).sum()),
        agreement=same / sure if sure else None,
        sure=sure,
        failures=tuple(failures()),
        step=step,
        deviation=math.sqrt(variances[worst]),
    )


def _compare_integers(name: str, expected: NDArray[np.generic], found: NDArray[np.generic]) -> OutputProof:
    """Integers, such as the number of a class: they are equal, or not."""
    same, count = int((expected == found).sum()), expected.size
    bad = count and wilson_interval(same, count)[1] < LEAST_AGREEMENT
    failure = f"{same / max(count, 1):.1%} of {count:,} numbers are equal (at least {LEAST_AGREEMENT:.0%})"
    return OutputProof(
        name, 1 - same / max(count, 1), agreement=same / max(count, 1), sure=count, failures=(failure,) if bad else ()
    )


def _rows(array: NDArray[np.generic]) -> Matrix:
    """(samples and places, channels) in float64, at most `MOST_ROWS` of them."""
    rows = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    if len(rows) > MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)]
    return rows.astype(np.float64)


def _own_steps(want: Matrix) -> Matrix:
    """The int8 step of each channel in a tensor with no other: its range, zero included, in 255 parts.

    Outputs in [0, 1] are probabilities: LiteRT's softmax and sigmoid give them that range whatever they use of it.
    """
    if want.min() >= 0 and want.max() <= 1:
        return np.full(want.shape[1], 1 / INT8_STEPS)
    return np.asarray((np.maximum(want.max(axis=0), 0) - np.minimum(want.min(axis=0), 0)) / INT8_STEPS)


def _uncertainty(freedom: int) -> float:
    """The upper bound of a variance that was estimated with this many degrees of freedom, as its multiple."""
    if freedom < 1:
        return _UNKNOWN
    spread = 2 / (9 * freedom)
    root = 1 - spread - DEVIATIONS * math.sqrt(spread)
    return root**-3 if root > 0 else _UNKNOWN


def _is_distribution(want: Matrix) -> bool:
    """Whether each row is a distribution over two classes or more."""
    return bool(
        want.shape[1] > 1
        and want.min() >= 0
        and want.max() <= 1
        and np.allclose(want.sum(axis=1), 1, atol=SUM_TOLERANCE)
    )


def _classes(want: Matrix, got: Matrix, allowed: Matrix) -> tuple[int, int]:
    """(places where the model is sure of its class, those of them where the file gives the same)."""
    if want.shape[1] < 2:
        return 0, 0
    second, first = np.partition(want, -2, axis=1)[:, -2:].T
    sure = first - second > CLEAR * math.sqrt(allowed.mean())
    return int(sure.sum()), int((want.argmax(axis=1) == got.argmax(axis=1))[sure].sum())


def _collapsed(want: Matrix, got: Matrix, own_steps: Matrix, names: NDArray[np.int_]) -> Iterator[str]:
    few, many = _distinct(got), _distinct(np.rint(want / own_steps))
    for channel in np.flatnonzero((few <= FEWEST_VALUES) & (many >= MANY_VALUES))[:1]:
        values = "1 value" if few[channel] == 1 else f"{few[channel]} different values"
        yield f"channel {names[channel]} has {values}; with its own scale it would have {many[channel]}"


def _distinct(values: Matrix) -> NDArray[np.int_]:
    """How many different values each channel has."""
    return np.asarray((np.diff(np.sort(values, axis=0), axis=0) != 0).sum(axis=0) + 1)


def _ratio(errors: float, variance: float) -> float:
    if errors == 0:
        return 0.0
    return float(errors / variance) if variance > 0 else math.inf
