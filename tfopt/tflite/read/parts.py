"""The parts of a .tflite as plain values: tensors, operators, inputs and outputs, weights."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph. `shape` is as stored; real value = scale * (stored value - zero_point).

    `scales` and `zero_points` hold nothing (not quantized), one number, or one for each slice along
    `quantized_axis`. `bytes` is the size of a constant's values in the file, and 0 for all others; `sparse` that those
    which are zero are left out of it.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quantized_axis: int | None
    constant: bool
    bytes: int
    subgraph: int = 0
    sparse: bool = False


@dataclass(frozen=True)
class Op:
    """An operation; `inputs` and `outputs` are tensor indices in the same subgraph, -1 for one left out."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraph: int = 0


@dataclass(frozen=True)
class Port:
    """An input or output of the model: its name in the signature (else the tensor's), None for a free axis.

    Real value = scales[0] * (stored value - zero_points[0]) where it is quantized; both are empty otherwise.
    """

    name: str
    index: int
    shape: tuple[int | None, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A constant that an op multiplies or looks up: `values` as stored, `dequantized` in float32, one shape.

    `channel_axis` (not negative) is the axis of the output channels; None where the layout has none fixed. `readers`
    are the operators that compute with it, in the order in which they run; it is the same constant for all of them.
    """

    tensor: Tensor
    op_name: str
    values: NDArray[Any] = field(repr=False, compare=False)
    dequantized: NDArray[np.float32] = field(repr=False, compare=False)
    channel_axis: int | None
    readers: tuple[Op, ...] = field(default=(), repr=False, compare=False)
