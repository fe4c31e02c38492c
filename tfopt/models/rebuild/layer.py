"""Descriptions of the Keras layers that an operation becomes, in Keras 3 terms."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Step(NamedTuple):
    """One per-channel operation: x `how` operand, with `how` "add", "sub", "mul" or "div".

    The operand is a number, or a constant of the graph with one value or one per channel.
    """

    how: str
    operand: Any


@dataclass(eq=False)
class Layer:
    """A Keras layer to be built, or per-channel steps ("Affine") to be converted to one.

    Attributes:
        kind: the class.
        config: its arguments.
        weights: their values, in the order of `get_weights`.
        variables: the variables of the module that the weights come from.
        inputs: the layers it is called on; None stands for the model input.
        path: the location of the operation in the graph, for the name.
        steps: the steps of an "Affine".
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    weights: list[np.ndarray] = field(default_factory=list)
    variables: tuple[Any, ...] = ()
    inputs: list["Layer | None"] = field(default_factory=list)
    path: str = ""
    steps: tuple[Step, ...] = ()


class Made(NamedTuple):
    """The conversion of an operation: a chain of `layers`, the first of which is called on `inputs`."""

    inputs: list[Any]
    layers: list[Layer]
