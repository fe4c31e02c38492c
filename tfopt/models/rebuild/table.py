"""TensorFlow operations as Keras layers: the only table that `rebuilt` uses.

To add an operation, add a row to `_TABLE` and one to tests/models/test_hub.py.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.models.rebuild.frozen import Frozen, NoLayerError
from tfopt.models.rebuild.layer import Layer, Made, Step
from tfopt.models.rebuild.weighted import (
    batch_norm,
    channels_last,
    convolution,
    dilated,
    matrix,
    padding_of,
    rank_of,
    zero_padding,
)

Maker = Callable[[Any, Frozen], Made]


def made(operation: Any, graph: Frozen) -> Made:
    """Return the layers for `operation`. Raise NoLayerError if there are none."""
    if operation.type not in _TABLE:
        raise NoLayerError(operation.type)
    return _TABLE[operation.type](operation, graph)


def _on_channels(operation: Any, graph: Frozen, how: str, x: Any, constant: Any) -> list[Layer]:
    """Return x `how` constant as an "Affine"; raise NoLayerError if the constant widens x or varies by pixel."""
    rank, shape = rank_of(x, operation), constant.shape
    count = shape.num_elements()
    if shape.rank is None or shape.rank > rank or not (count == 1 or count == shape[-1] == x.shape[-1]):
        raise NoLayerError(f"{operation.type} with a constant of shape {shape}")
    return [Layer("Affine", variables=tuple(graph.variables(constant)), steps=(Step(how, constant),))]


def _binary(merge: str | None, how: str) -> Maker:
    """Return a maker for an operation on a tensor and a constant (`how`), or on two tensors (`merge`)."""

    def make(operation: Any, graph: Frozen) -> Made:
        a, b = operation.inputs
        if graph.is_constant(b):
            return Made([a], _on_channels(operation, graph, how, a, b))
        if graph.is_constant(a) and how in ("add", "mul"):
            return Made([b], _on_channels(operation, graph, how, b, a))
        if graph.is_constant(a) and how == "sub":  # constant - x
            return Made([b], [*_negative(), *_on_channels(operation, graph, "add", b, a)])
        # Keras adds missing axes after the batch axis, TensorFlow before it.
        if merge is None or rank_of(a, operation) != rank_of(b, operation):
            raise NoLayerError(f"{operation.type} of tensors of shapes {a.shape} and {b.shape}")
        return Made([a, b], [Layer(merge)])

    return make


def _negative() -> list[Layer]:
    return [Layer("Affine", steps=(Step("mul", -1.0),))]


def _limit(operation: Any, graph: Frozen) -> Made:
    """Convert Maximum and Minimum: of tensors; or with constants if together they form a ReLU."""
    a, b = operation.inputs
    if not graph.is_constant(a) and not graph.is_constant(b):
        return _binary(operation.type, "")(operation, graph)
    x, low, high = _clipped(operation.outputs[0], graph)
    if low != 0.0:
        raise NoLayerError(f"{operation.type} with a constant")
    return Made([x], [Layer("ReLU", {} if high is None else {"max_value": high})])


def _clipped(tensor: Any, graph: Frozen) -> tuple[Any, float | None, float | None]:
    """Return (x, low, high) if `tensor` is x clipped between two numbers, None for an open side."""
    limits: dict[str, float] = {}
    operation = graph.source(tensor).op
    while operation.type in ("Maximum", "Minimum", "Relu") and operation.type not in limits:
        inputs = list(operation.inputs)
        if operation.type == "Relu":
            x, bound, kind = inputs[0], 0.0, "Maximum"
        else:
            constants = [each for each in inputs if graph.is_constant(each)]
            if len(constants) != 1 or graph.value(constants[0]).size != 1:
                break
            x = next(each for each in inputs if not graph.is_constant(each))
            bound, kind = float(graph.value(constants[0]).item()), operation.type
        if kind in limits:
            break
        limits[kind], tensor = bound, x
        operation = graph.source(x).op
    return tensor, limits.get("Maximum"), limits.get("Minimum")


def _reshape(operation: Any, graph: Frozen) -> Made:
    """Convert Reshape, Squeeze and ExpandDims, judged by the shapes on both sides, per sample."""
    x, shapes = operation.inputs[0], (operation.inputs[0].shape, operation.outputs[0].shape)
    before, after = (None if shape.rank is None else tuple(shape)[1:] for shape in shapes)
    if not after or None in after or before is None:
        raise NoLayerError(f"{operation.type} from shape {shapes[0]} to {shapes[1]}")
    if before == after:
        return Made([x], [])
    if None not in before and math.prod(before) != math.prod(after):
        raise NoLayerError(f"{operation.type} across samples, from shape {shapes[0]} to {shapes[1]}")
    return Made([x], [Layer("Flatten") if len(after) == 1 else Layer("Reshape", {"target_shape": after})])


def _pool(kind: str) -> Maker:
    def make(operation: Any, graph: Frozen) -> Made:
        del graph
        channels_last(operation)
        size, strides = operation.get_attr("ksize"), operation.get_attr("strides")
        before, padding = padding_of(operation)
        if before or size[0] != 1 or size[3] != 1:
            raise NoLayerError(f"{operation.type} with explicit padding or across channels")
        config = {"pool_size": tuple(size[1:3]), "strides": tuple(strides[1:3]), "padding": padding}
        return Made([operation.inputs[0]], [Layer(f"{kind}Pooling2D", config)])

    return make


def _over_space(kind: str) -> Maker:
    def make(operation: Any, graph: Frozen) -> Made:
        x, axes = operation.inputs
        rank = rank_of(x, operation)
        over = sorted(int(axis) % rank for axis in np.ravel(graph.value(axes))) if graph.is_constant(axes) else []
        if rank not in (3, 4) or over != list(range(1, rank - 1)):
            raise NoLayerError(f"{operation.type} over the axes {over}")
        config = {"keepdims": bool(operation.get_attr("keep_dims"))}
        return Made([x], [Layer(f"Global{kind}Pooling{rank - 2}D", config)])

    return make


def _pad(operation: Any, graph: Frozen) -> Made:
    x, *constants = operation.inputs
    if not all(map(graph.is_constant, constants)) or (len(constants) == 2 and np.any(graph.value(constants[1]))):
        raise NoLayerError(f"{operation.type} with values other than zero")
    widths = [(int(a), int(b)) for a, b in graph.value(constants[0])]
    if len(widths) != 4 or any((*widths[0], *widths[3])):
        raise NoLayerError(f"{operation.type} of axes other than height and width")
    return Made([x], zero_padding(widths[1], widths[2]))


def _concatenate(operation: Any, graph: Frozen) -> Made:
    *inputs, axis = operation.inputs
    if any(map(graph.is_constant, inputs)) or not graph.is_constant(axis):
        raise NoLayerError("ConcatV2 with a constant")
    number = int(graph.value(axis)) % rank_of(inputs[0], operation)
    if number == 0:
        raise NoLayerError("ConcatV2 of samples")
    return Made(inputs, [Layer("Concatenate", {"axis": number})] if len(inputs) > 1 else [])


def _sum(operation: Any, graph: Frozen) -> Made:
    inputs = list(operation.inputs)
    if any(map(graph.is_constant, inputs)):
        raise NoLayerError("AddN with a constant")
    return Made(inputs, [Layer("Add")] if len(inputs) > 1 else [])


def _plain(kind: str, **config: Any) -> Maker:
    return lambda operation, graph: Made([operation.inputs[0]], [Layer(kind, dict(config))])


def _leaky(operation: Any, graph: Frozen) -> Made:
    del graph
    slope = float(operation.get_attr("alpha"))
    return Made([operation.inputs[0]], [Layer("LeakyReLU", {"negative_slope": slope})])


_TABLE: dict[str, Maker] = {
    "Conv2D": convolution,
    "DepthwiseConv2dNative": convolution,
    "BatchToSpaceND": dilated,
    "MatMul": matrix,
    "BatchMatMulV2": matrix,
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), batch_norm),
    **dict.fromkeys(("BiasAdd", "Add", "AddV2"), _binary("Add", "add")),
    "Sub": _binary("Subtract", "sub"),
    "Mul": _binary("Multiply", "mul"),
    "RealDiv": _binary(None, "div"),
    "Neg": lambda operation, graph: Made([operation.inputs[0]], _negative()),
    "AddN": _sum,
    "Maximum": _limit,
    "Minimum": _limit,
    "Relu": _plain("ReLU"),
    "Relu6": _plain("ReLU", max_value=6.0),
    "LeakyRelu": _leaky,
    "Elu": _plain("ELU"),
    "Softmax": _plain("Softmax"),
    "Sigmoid": _plain("Activation", activation="sigmoid"),
    "Tanh": _plain("Activation", activation="tanh"),
    "Selu": _plain("Activation", activation="selu"),
    "Softplus": _plain("Activation", activation="softplus"),
    "Softsign": _plain("Activation", activation="softsign"),
    "MaxPool": _pool("Max"),
    "AvgPool": _pool("Average"),
    "Mean": _over_space("Average"),
    "Max": _over_space("Max"),
    **dict.fromkeys(("Pad", "PadV2"), _pad),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), _reshape),
    "ConcatV2": _concatenate,
}
