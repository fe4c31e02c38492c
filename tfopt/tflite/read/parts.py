"""The parts of a .tflite as plain data: tensors, operators, inputs and outputs, weights."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph. Real value = scale * (stored value - zero_point).

    Attributes:
        index: in its subgraph.
        name: of the tensor.
        shape: as stored.
        dtype: as stored.
        scales: empty if not quantized, else one number, or one per slice along `quantized_axis`.
        zero_points: as many as `scales`.
        quantized_axis: see `scales`; None for fewer than two scales.
        constant: whether its values are stored in the file.
        bytes: size of a constant's values in the file; 0 for other tensors.
        subgraph: index of its subgraph.
        sparse: whether zeros are left out of the stored values.
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
    """An operation; `inputs` and `outputs` are tensor indices in its subgraph, -1 for an omitted one."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraph: int = 0


@dataclass(frozen=True)
class Port:
    """An input or output of the model.

    Attributes:
        name: in the signature, else that of the tensor.
        index: of its tensor.
        shape: with None for a free axis.
        dtype: as stored.
        scales: one number if quantized, else empty: real value = scales[0] * (stored value - zero_points[0]).
        zero_points: as many as `scales`.
    """

    name: str
    index: int
    shape: tuple[int | None, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A constant that an op multiplies or looks up.

    Attributes:
        tensor: the tensor that stores it.
        op_name: of its first reader.
        values: as stored.
        dequantized: the real values, float32, of the same shape.
        channel_axis: the axis of the output channels, not negative; None if the layout does not fix one.
        readers: the operators that compute with it, in the order in which they run.
    """

    tensor: Tensor
    op_name: str
    values: NDArray[Any] = field(repr=False, compare=False)
    dequantized: NDArray[np.float32] = field(repr=False, compare=False)
    channel_axis: int | None
    readers: tuple[Op, ...] = field(default=(), repr=False, compare=False)
