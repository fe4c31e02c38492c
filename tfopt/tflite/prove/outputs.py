"""Compare the outputs of a `.tflite` with those of its Keras model, per output and per channel.

Let E[n, c] be the output of Keras in channel c (of the last axis) at sample and position n, and F[n, c] that of the
file:

- The noise of a channel is mean((F - E)^2) / var(E). For yes-or-no decisions at the mean of a Gaussian channel, noise v
  flips a share of atan(sqrt(v)) / pi: a tenth for v = 0.1, a seventh for v = 0.25.
- Errors of `FREE_STEPS` int8 steps over the channel's own range (including zero, and all of [0, 1] for probabilities)
  are always allowed, since int8 cannot do better. A channel that varies by less than `NARROW_STEPS` such steps, as in
  an untrained model, counts only in the sum over all channels, with steps over the range of all channels. If no channel
  varies by more than that, all count only there.
- The variance of few values is uncertain, so its upper bound is used (chi-squared, by Wilson and Hilferty 1931).
- Classes are compared where the model is sure: where its two best scores differ by more than the allowed noise flips.
- A channel has collapsed if it has at most `FEWEST_VALUES` different values, but would have many on its own int8 scale.

`sides.py` runs both sides.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfopt.base.words import counted
from tfopt.tasks import Classification
from tfopt.tasks.metrics import wilson_interval
from tfopt.tasks.responses import INT8, form_of
from tfopt.tflite.read import LiteModel, Port

MOST_NOISE = {"int4": 0.25, "int8": 0.1}
"""By the narrowest weight type of a file. Rounding Gaussian weights to 4 bits costs 1.5 % of each layer's power."""
MOST_FLOAT_NOISE = 1e-3
LEAST_AGREEMENT = 0.9
"""Least share of sure positions with the same class; noise of 0.1 preserves as many yes-or-no decisions."""
LEAST_EQUAL = 0.99
"""Least share of equal integers, such as class indices, of a file that computes in float."""
INT8_STEPS = 255
FREE_STEPS = 2.0
"""Root mean square of an error that is always allowed, in int8 steps over the channel's own range."""
ROUNDING, FLOAT16_ROUNDING = 1e-5, 1e-3
"""Root mean square of an error that is always allowed for rounding, relative to the largest value of the channel."""
NARROW_STEPS = 4.0
"""Least standard deviation, in the same steps, of a channel that is checked by itself; a Gaussian one has 40 to 60."""
CLEAR = 2 * math.sqrt(2)
"""Two standard deviations of the difference of two scores, in standard deviations of one."""
FEWEST_VALUES, MANY_VALUES = 3, 16
"""A channel has collapsed with at most the first number of different values, if its own int8 scale has the second."""
DEVIATIONS = 2.0
"""Standard deviations from the estimate of a variance to its upper bound."""
MOST_ROWS = 2**18
"""Most samples and positions of an output that are compared, evenly spread."""

_UNKNOWN = 1e12
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class OutputProof:
    """The difference between an output of the file and that of the model.

    Attributes:
        name: of the output.
        noise: of all channels: summed squared differences / summed variances; 0 if equal.
        channel: the worst channel, relative to its limit.
        channel_noise: the noise of that channel.
        agreement: share of sure positions with the same class; None if the output has no classes.
        sure: the number of positions where the model is sure.
        failures: descriptions of exceeded limits; empty for a good output.
        narrow: number of channels that vary by less than `NARROW_STEPS` int8 steps, for which little is proven.
        step: of the file's scale; None in float.
        deviation: standard deviation of the worst channel in Keras.
        unknown: share of the values that the model gives as NaN or infinity, and that are not compared.
        lost: a description of the loss where all channels vary too little for the file's steps; "" for no such output.
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
    unknown: float = 0.0
    lost: str = ""

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
            vary, own = ("varies", "its") if self.narrow == 1 else ("vary", "their")
            channels = f"{counted(self.narrow, 'channel')} {vary}"
            parts.append(f"{channels} by less than {NARROW_STEPS:g} int8 steps of {own} own range")
        if self.unknown:
            parts.append(f"{self.unknown:.1%} of the values not compared: the model gives NaN or infinity")
        return ", ".join(parts)


def most_noise(dtypes: Iterable[str]) -> float:
    """Return the largest allowed noise of an output channel for a file with weights of these types."""
    held = set(dtypes)
    return next((noise for dtype, noise in MOST_NOISE.items() if dtype in held), MOST_FLOAT_NOISE)


def output_step(lite: LiteModel, port: Port) -> float | None:
    """Return the scale of an output, or of the integers from which it is dequantized; None if it is float."""
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
    free_steps: float = FREE_STEPS,
    rounding: float = ROUNDING,
    must_vary: bool = False,
) -> OutputProof:
    """Compare one output of a file with the model's.

    Args:
        name: of the output.
        expected: the output of Keras, (samples, ..., channels) or (samples,).
        found: the output of the file, of the same shape and in the same units.
        most_noise: largest allowed noise of a channel, relative to its variance.
        classes: whether the channels are class scores; probabilities are recognized by their sum.
        step: of the file's scale.
        free_steps: errors that always pass, in int8 steps over the channel's own range.
        rounding: errors that always pass, relative to the largest value of the channel.
        must_vary: whether it is a failure if the free steps excuse the loss of all that an output says: its channels
            all vary by less than `NARROW_STEPS`, but by more than a step over the range of its values.

    Returns:
        The figures and the exceeded limits.
    """
    if expected.shape != found.shape:
        return OutputProof(name, math.inf, failures=(f"shape {found.shape} instead of {expected.shape}",))
    if expected.dtype.kind in "iub":
        exact = most_noise <= MOST_FLOAT_NOISE
        return _compare_integers(name, expected, found, LEAST_EQUAL if exact else LEAST_AGREEMENT)
    want, got = (_rows(array) for array in (expected, found))
    if not want.size:
        return OutputProof(name, 0.0)
    known = np.isfinite(want)
    if not np.isfinite(got[known]).all():
        return OutputProof(name, math.inf, failures=("NaN or infinity where the model gives finite numbers",))
    if not known.any():
        return OutputProof(name, math.inf, failures=("the model gives NaN or infinity alone",))
    want, got = np.where(known, want, 0), np.where(known, got, 0)
    proof = _compare(name, want, got, most_noise, classes, step, free_steps, rounding, must_vary)
    return dataclasses.replace(proof, unknown=float(1 - known.mean()))


def _compare(
    name: str,
    want: Matrix,
    got: Matrix,
    most_noise: float,
    classes: bool,
    step: float | None,
    free_steps: float,
    rounding: float,
    must_vary: bool,
) -> OutputProof:
    errors, variances = np.square(got - want).mean(axis=0), want.var(axis=0)
    full = _has_full_range(want, step)
    own_steps = _own_steps(want, full)
    rounded = np.square(rounding * np.abs(want).max(axis=0))
    free = np.square(free_steps * own_steps) + rounded
    count, channels = want.shape
    allowed = most_noise * variances * _uncertainty(count - 1) + free
    common = _own_steps(want.reshape(-1, 1), full)[0]
    wide = variances > np.square(NARROW_STEPS * own_steps)
    wide &= variances.max() > np.square(NARROW_STEPS * common)  # otherwise all channels are nearly constant
    worst = int(np.argmax(np.where(wide, errors / np.maximum(allowed, np.finfo(float).tiny), -1)))
    sure, same = _classes(want, got, most_noise * variances + free) if classes or _is_distribution(want) else (0, 0)

    noise = f"noise {_ratio(errors.sum(), variances.sum()):.2g} (at most {most_noise:g})"
    total = most_noise * variances.sum() * _uncertainty((count - 1) * channels) + rounded.sum()
    lost = ""
    if errors.sum() > total and not wide.any() and not _is_constant(want, variances):
        lost = f"{noise}, since it varies by {math.sqrt(variances.max()):.2g}, and an int8 step is {common:.2g}"

    def failures() -> Iterator[str]:
        if errors.sum() > total + channels * np.square(free_steps * common):
            yield noise
        elif must_vary and lost:
            yield lost
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
        lost=lost,
    )


def _compare_integers(
    name: str, expected: NDArray[np.generic], found: NDArray[np.generic], least: float
) -> OutputProof:
    """Compare integers, such as class indices, for equality."""
    same, count = int((expected == found).sum()), expected.size
    bad = count and wilson_interval(same, count)[1] < least
    failure = f"{same / max(count, 1):.1%} of {count:,} numbers are equal (at least {least:.0%})"
    return OutputProof(
        name, 1 - same / max(count, 1), agreement=same / max(count, 1), sure=count, failures=(failure,) if bad else ()
    )


def _rows(array: NDArray[np.generic]) -> Matrix:
    """Return the array as (samples and positions, channels), float64, with at most `MOST_ROWS` rows.

    A complex channel becomes two.
    """
    if np.iscomplexobj(array):
        array = (
            np.concatenate([array.real, array.imag], axis=-1)
            if array.ndim > 1
            else np.stack([array.real, array.imag], 1)
        )
    rows = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    if len(rows) > MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)]
    return rows.astype(np.float64)


def _has_full_range(want: Matrix, step: float | None) -> bool:
    """Return whether int8 gives the outputs the full range of [0, 1], as LiteRT does to softmax and sigmoid.

    They are distributions, or the file's scale `step` is that of such an operator, 1/256.
    """
    if want.min() < 0 or want.max() > 1:
        return False
    return _is_distribution(want) or (step is not None and math.isclose(step, 1 / 256, rel_tol=1e-3))


def _own_steps(want: Matrix, full: bool) -> Matrix:
    """Return the int8 step that each channel would have alone: its range, including zero, divided by 255.

    With `full` that range is [0, 1].
    """
    if full:
        return np.full(want.shape[1], 1 / INT8_STEPS)
    return np.asarray((np.maximum(want.max(axis=0), 0) - np.minimum(want.min(axis=0), 0)) / INT8_STEPS)


def _is_constant(want: Matrix, variances: Matrix) -> bool:
    """Return whether no channel varies by an int8 step over the range of all, with which no int8 file shows more.

    For probabilities too, whose range in int8 is [0, 1], it is the range of their values.
    """
    return bool(variances.max() < np.square(_own_steps(want.reshape(-1, 1), False)[0]))


def _uncertainty(freedom: int) -> float:
    """Return the upper bound of a variance estimated with this many degrees of freedom, as a multiple of it."""
    if freedom < 1:
        return _UNKNOWN
    spread = 2 / (9 * freedom)
    root = 1 - spread - DEVIATIONS * math.sqrt(spread)
    return root**-3 if root > 0 else _UNKNOWN


def _is_distribution(want: Matrix) -> bool:
    """Return whether each row is a distribution over at least two classes."""
    return form_of(want, Classification, INT8) == "softmax"


def _classes(want: Matrix, got: Matrix, allowed: Matrix) -> tuple[int, int]:
    """Return the number of positions where the model is sure of its class, and how many of them agree in the file."""
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
    """Return the number of different values in each channel."""
    return np.asarray((np.diff(np.sort(values, axis=0), axis=0) != 0).sum(axis=0) + 1)


def _ratio(errors: float, variance: float) -> float:
    if errors == 0:
        return 0.0
    return float(errors / variance) if variance > 0 else math.inf
