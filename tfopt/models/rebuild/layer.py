"""What an operation becomes: Keras layers that are yet to be made, in the terms of Keras 3."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Step(NamedTuple):
    """One operation on each channel: x `how` operand, with `how` "add", "sub", "mul" or "div".

    The operand is a number, or a constant of the graph with one value or one for each channel.
    """

    how: str
    operand: Any


@dataclass(eq=False)
class Layer:
    """A Keras layer to be made, or steps on channels ("Affine") that are yet to become one.

    Attributes:
        kind: the class.
        config: its arguments.
        weights: their values, in the order of `get_weights`.
        variables: what the weights were in the module.
        inputs: the layers it is called on; None is the input of the model.
        path: where the operation is in the graph, for the name.
        steps: of an "Affine".
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    weights: list[np.ndarray] = field(default_factory=list)
    variables: tuple[Any, ...] = ()
    inputs: list["Layer | None"] = field(default_factory=list)
    path: str = ""
    steps: tuple[Step, ...] = ()


class Made(NamedTuple):
    """What an operation becomes: `layers`, each called on what the one before gives, the first on `inputs`."""

    inputs: list[Any]
    layers: list[Layer]
