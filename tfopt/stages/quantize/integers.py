"""The integers that the weights of a finished model represent, which the converter cannot recover from the floats."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.annotations import annotate, annotations
from tfopt.base.keras_compat import unwrapped
from tfopt.stages.kernels.rules import Key


@dataclass(frozen=True)
class Integers:
    """A kernel on a grid, with one step per output channel or one for all, times a folded BatchNorm's factor.

    Attributes:
        bits: 2 to 8.
        values: int8, of the shape of the kernel.
    """

    bits: int
    values: np.ndarray


def remember_integers(model: Any, integers: Mapping[Key, Integers]) -> None:
    """Record the integers that kernels of `model` (flat tf_keras) represent."""
    annotate(model, integers=dict(integers))


def integers_of(model: Any) -> dict[Key, Integers]:
    """Return, by layer and kernel, the integers of `model` that the converter would not choose itself.

    Args:
        model: the model that a stage's `apply` returned; any other has none.
    """
    known = annotations(model).integers
    if known is not None:
        return dict(known)
    return {
        (unwrapped(layer).name, quantizer.kernel): Integers(
            quantizer.precision.bits, quantizer.integers(variable, made)
        )
        for layer in model.layers
        for variable, quantizer, made in getattr(layer, "_weight_vars", ())
        if hasattr(quantizer, "precision") and quantizer.needs_integers()
    }
