"""The integers that the weights of a finished model stand for, which the converter cannot tell from other numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.annotations import annotate, annotations
from tfopt.base.keras_compat import unwrapped
from tfopt.stages.kernels.rules import Key


@dataclass(frozen=True)
class Integers:
    """A kernel on a grid, each output channel times a step, or all channels (and what BatchNorm does to each).

    Attributes:
        bits: 2 to 8.
        values: int8, of the shape of the kernel.
    """

    bits: int
    values: np.ndarray


def remember_integers(model: Any, integers: Mapping[Key, Integers]) -> None:
    """Say that kernels of `model` (flat tf_keras) stand for these."""
    annotate(model, integers=dict(integers))


def integers_of(model: Any) -> dict[Key, Integers]:
    """By layer and kernel, what the weights of `model` stand for, where the converter would choose other integers.

    `model` is what a stage's `apply` returned; of any other there are none.
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
