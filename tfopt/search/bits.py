"""Choose bits for each layer under a budget of accuracy or bytes."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfopt.data import Dataset
from tfopt.search.sensitivity import SAMPLES, Judge, low_bit_kernels
from tfopt.stages.kernels.rules import Key, choose

# How a file stores fewer than 8 bits, see `tfopt.tflite.write.low_bit_weights`.
STORED_IN = 4

FREE = "free"


def choose_bits(stage: Any, flat_model: Any, data: Dataset, size: Callable[[Any], int]) -> tuple[Any, list[str]]:
    """Return `stage` with bits for every layer that meet its `budget`, and notes on the choice.

    Kernels go from 8 to 4 bits in the order of output noise added per byte saved. With `max_bytes`, this continues
    until the file is small enough; with `max_drop`, as long as the accuracy on validation samples, with weights rounded
    to nearest, stays within it; with both, the size must be reached within the drop, which is verified on the final
    file. Rules of the stage take precedence.

    Args:
        stage: a stage with a `budget`.
        flat_model: flat tf_keras, the stage's input.
        data: its validation part is used to measure noise and accuracy.
        size: returns the file size of a stage in bytes.

    Returns:
        The stage and the notes.
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
        f"4 bits in {chosen} of {len(order)} layers: {names}; with these rounded to nearest and the rest in float, "
        f"{judge.metric} on {judge.samples:,} validation samples is worse by {loss(chosen):.4f}"
    )
    return _with_bits(stage, order[:chosen]), [said]


def with_fewest_bits(stage: Any, flat_model: Any) -> Any:
    """Return `stage` with 4 bits wherever no rule of the stage applies."""
    return _with_bits(stage, _free(stage, flat_model))


def _free(stage: Any, flat_model: Any) -> list[Key]:
    """Return the kernels that 4 bits make smaller and that no rule of the stage covers."""
    settings = choose(stage.layers, flat_model.layers, dict.fromkeys((layer.name for layer in flat_model.layers), FREE))
    found = low_bit_kernels(flat_model)
    return [key for key, kernel in found.items() if settings[key[0]] == FREE and not kernel.spared]


def _order(judge: "Judge", keys: Sequence[Key]) -> list[Key]:
    """Return `keys` sorted by the output noise that 4 bits add per byte saved, lowest first."""
    found = low_bit_kernels(judge.model)
    cost = {key: 10 ** (-judge.with_bits(_four([key]), "mse")[1] / 10) / math.prod(found[key].shape) for key in keys}
    return sorted(keys, key=cost.__getitem__)


def _four(keys: Iterable[Key]) -> dict[Key, int]:
    return dict.fromkeys(keys, STORED_IN)


def _with_bits(stage: Any, keys: Iterable[Key]) -> Any:
    """Return `stage` with 4 bits for these keys, and 8 for all others without a rule."""
    rules = tuple((layer, STORED_IN) for layer in dict.fromkeys(layer for layer, _ in keys))
    return dataclasses.replace(stage, layers=(*stage.layers, *rules), weight_bits=8)
