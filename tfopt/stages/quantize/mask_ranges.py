"""Ranges of attention scores that a model masks itself, for example by adding (1 - mask) * -1e9.

One int8 scale over scores and masked scores has steps of 4e6, and all scores become equal. For softmax, a number just
below the scores does what -1e9 does: with lo the least of the scores of S keys, masked ones at lo - ln(512 S) have less
than half an int8 step of the probability together. A range that begins there clips them to it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides
from tfopt.graph.types import Call, Ref, refs_in
from tfopt.graph.walk import walk
from tfopt.stages.kernels.layer_kinds import activation_of, is_linear_layer
from tfopt.stages.quantize.plan import PASSING_OPERATIONS, operation_of

FAR = 1000.0
"""Constants at least this large may be masks; scores are smaller."""
HALF_STEP = 512
"""Probabilities below one part in this are zero in int8."""
_MASKING = ("add", "addv2", "subtract", "sub", "where", "select", "selectv2", "maximum")


@dataclass(frozen=True)
class MaskedScores:
    """The quantizers of masked scores, and of what is added to them: layers of the model.

    Attributes:
        scores: the layer that adds or chooses.
        keys: how many scores each distribution has.
        operands: the layers that make what is added or chosen.
    """

    scores: Any
    keys: int
    operands: tuple[Any, ...]

    def low(self, least: float) -> float:
        """Return where masked scores lie if the others are at least `least`."""
        return least - math.log(HALF_STEP * self.keys)


def brought_near(value: Any, farthest: float) -> Any:
    """Return an argument of a call with numbers beyond `FAR` at `farthest` from 0; anything else as it is."""
    if isinstance(value, (bool, str)) or not isinstance(value, (float, int, np.ndarray)):
        return value
    near = np.where(np.abs(value) >= FAR, np.sign(value) * farthest, value)
    return near.astype(value.dtype) if isinstance(value, np.ndarray) else float(near)


def near_constants(layer: Any, farthest: float) -> Overrides:
    """Return the overrides that bring the constants of a Rescaling near, or of a layer like it."""
    constants = {name: getattr(layer, name, None) for name in ("scale", "offset")}
    near = {name: brought_near(value, farthest) for name, value in constants.items() if value is not None}
    return [(layer, name, value) for name, value in near.items() if np.any(value != constants[name])]


def masked_scores(model: Any) -> Iterator[MaskedScores]:
    """Yield the additions and choices before each softmax of a model with quantization wrappers."""
    graph = walk(model, keep_names=True)
    makers = {ref: call for call in graph.calls for ref in call.outputs}
    for call in graph.calls:
        if _is_softmax(call.leaf.layer):
            for ref in refs_in(call.args):
                yield from _before(makers, ref, (ref.shape or (1,))[-1] or 1)


def _before(makers: dict[Ref, Call], ref: Ref, keys: int) -> Iterator[MaskedScores]:
    call = makers.get(ref)
    if call is None:
        return
    if _passes(call.leaf.layer):
        for source in refs_in(call.args):
            yield from _before(makers, source, keys)
    elif _masks(call.leaf.layer):
        sources = [_maker(makers, source) for source in refs_in([call.args, call.kwargs])]
        yield MaskedScores(call.leaf.layer, keys, tuple(source for source in sources if source is not None))
        for source in refs_in([call.args, call.kwargs]):
            yield from _before(makers, source, keys)


def _maker(makers: dict[Ref, Call], ref: Ref) -> Any:
    """Return the layer that makes the values of `ref`, in whatever shape; None for an input without a quantizer."""
    call = makers.get(ref)
    while call is not None and _passes(call.leaf.layer):
        call = next((makers.get(source) for source in refs_in(call.args)), None)
    return None if call is None else call.leaf.layer


def _is_softmax(layer: Any) -> bool:
    inner = unwrapped(layer)
    return operation_of(inner).rpartition(".")[2] == "softmax" or (
        activation_of(inner) == "softmax" and not is_linear_layer(inner)
    )


def _passes(layer: Any) -> bool:
    name = operation_of(unwrapped(layer)).rpartition(".")[2].strip("_")
    return name in PASSING_OPERATIONS or type(unwrapped(layer)).__name__ in (
        "Reshape",
        "Permute",
        "Dropout",
        "Identity",
    )


def _masks(layer: Any) -> bool:
    inner = unwrapped(layer)
    return (operation_of(inner) or type(inner).__name__.lower()).rpartition(".")[2].strip("_") in _MASKING
