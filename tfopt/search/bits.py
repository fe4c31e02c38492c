"""Bits for each layer under a budget of accuracy or bytes."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfopt.data import Dataset
from tfopt.search.sensitivity import SAMPLES, Judge, low_bit_kernels
from tfopt.stages.kernels.rules import Key, choose

# What stands in a file for fewer than 8 bits, see `tfopt.tflite.write.low_bit_weights`.
STORED_IN = 4

FREE = "free"


def choose_bits(stage: Any, flat_model: Any, data: Dataset, size: Callable[[Any], int]) -> tuple[Any, list[str]]:
    """Return `stage` with bits for every layer by its `budget`, and notes on the choice.

    Kernels go from 8 to 4 bits in the order of the noise that they add to the outputs for each byte that they save.
    With `max_bytes`, until the file is small enough; with `max_drop`, for as long as the accuracy on validation
    samples, with weights rounded to nearest, stays within it; with both, the former has to be reached within the
    latter, which is proved on the file in the end. A rule of the stage's own comes first.

    Args:
        stage: a stage with a `budget`.
        flat_model: flat tf_keras, what the stage begins with.
        data: the samples on which noise and accuracy are measured: those of the validation part.
        size: a function of a stage that gives the bytes of its file.
    """
    budget, judge = stage.budget, Judge(flat_model, data, SAMPLES)
    order = _order(judge, _free(stage, flat_model))

    def loss(number: int) -> float:
        return judge.loss(judge.with_bits(_four(order[:number]), "mse")[0])

    if budget.max_bytes is not None:
        fits = lambda number: size(_with_bits(stage, order[:number])) <= budget.max_bytes  # noqa: E731
        chosen = min(bisect.bisect_left(range(len(order) + 1), True, key=fits), len(order))
    else:
        chosen = len(
            list(itertools.takewhile(lambda number: loss(number) <= budget.max_drop, range(1, len(order) + 1)))
        )
    names = ", ".join(layer for layer, _ in order[:chosen]) or "none"
    said = (
        f"4 bits in {chosen} of {len(order)} layers: {names}; with these rounded to nearest and all else in float, "
        f"{judge.metric} on {judge.samples:,} validation samples is worse by {loss(chosen):.4f}"
    )
    return _with_bits(stage, order[:chosen]), [said]


def with_fewest_bits(stage: Any, flat_model: Any) -> Any:
    """`stage` with 4 bits wherever no rule of its own says otherwise."""
    return _with_bits(stage, _free(stage, flat_model))


def _free(stage: Any, flat_model: Any) -> list[Key]:
    """The kernels that 4 bits make smaller, and for which no rule of the stage says something."""
    settings = choose(stage.layers, flat_model.layers, dict.fromkeys((layer.name for layer in flat_model.layers), FREE))
    found = low_bit_kernels(flat_model)
    return [key for key, kernel in found.items() if settings[key[0]] == FREE and not kernel.spared]


def _order(judge: "Judge", keys: Sequence[Key]) -> list[Key]:
    """`keys` by the noise that 4 bits add to the outputs, for each byte saved; the least first."""
    found = low_bit_kernels(judge.model)
    cost = {key: 10 ** (-judge.with_bits(_four([key]), "mse")[1] / 10) / math.prod(found[key].shape) for key in keys}
    return sorted(keys, key=cost.__getitem__)


def _four(keys: Iterable[Key]) -> dict[Key, int]:
    return dict.fromkeys(keys, STORED_IN)


def _with_bits(stage: Any, keys: Iterable[Key]) -> Any:
    """`stage` with 4 bits for these, and 8 for all others without a rule."""
    rules = tuple((layer, STORED_IN) for layer in dict.fromkeys(layer for layer, _ in keys))
    return dataclasses.replace(stage, layers=(*stage.layers, *rules), weight_bits=8)
