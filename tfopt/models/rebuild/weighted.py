"""Operations with weights as Keras layers: convolutions, matrix products, BatchNormalization."""

from typing import Any

import numpy as np

from tfopt.models.rebuild.frozen import Frozen, NoLayerError
from tfopt.models.rebuild.layer import Layer, Made


def constants(operation: Any, graph: Frozen, *positions: int) -> tuple[list[np.ndarray], tuple[Any, ...]]:
    """Return the constants among the inputs at `positions`, and the variables they come from."""
    tensors = [operation.inputs[position] for position in positions]
    if not all(map(graph.is_constant, tensors)):
        raise NoLayerError(f"{operation.type} with computed weights")
    return [graph.value(tensor) for tensor in tensors], tuple(v for t in tensors for v in graph.variables(t))


def channels_last(operation: Any) -> None:
    """Raise NoLayerError for a channels-first operation."""
    layout = operation.get_attr("data_format").decode()
    if layout not in ("NHWC", "NDHWC"):
        raise NoLayerError(f"{operation.type} with channels first ({layout})")


def rank_of(tensor: Any, operation: Any) -> int:
    """Return the rank of `tensor`, an input of `operation`; raise NoLayerError if it is unknown."""
    if tensor.shape.rank is None:
        raise NoLayerError(f"{operation.type} on a tensor of unknown rank")
    return int(tensor.shape.rank)


def zero_padding(rows: tuple[int, int], columns: tuple[int, int]) -> list[Layer]:
    """Return the layer that zero-pads rows and columns; an empty list if there is nothing to pad."""
    return [Layer("ZeroPadding2D", {"padding": (rows, columns)})] if any((*rows, *columns)) else []


def padding_of(operation: Any) -> tuple[list[Layer], str]:
    """Return the layers to put first, and the `padding` of the layer itself."""
    how = operation.get_attr("padding").decode()
    if how != "EXPLICIT":
        return [], how.lower()
    _, _, top, bottom, left, right, _, _ = operation.get_attr("explicit_paddings")
    return zero_padding((top, bottom), (left, right)), "valid"


def convolution(operation: Any, graph: Frozen) -> Made:
    """Convert Conv2D, grouped or not, and DepthwiseConv2dNative."""
    channels_last(operation)
    (kernel,), variables = constants(operation, graph, 1)
    before, padding = padding_of(operation)
    config: dict[str, Any] = {
        "kernel_size": kernel.shape[:2],
        "strides": tuple(operation.get_attr("strides")[1:3]),
        "dilation_rate": tuple(operation.get_attr("dilations")[1:3]),
        "padding": padding,
        "use_bias": False,
    }
    if operation.type == "Conv2D":
        channels = operation.inputs[0].shape[-1] or kernel.shape[2]
        config |= {"filters": kernel.shape[3], "groups": channels // kernel.shape[2]}
        return Made([operation.inputs[0]], [*before, Layer("Conv2D", config, [kernel], variables)])
    config |= {"depth_multiplier": kernel.shape[3]}
    return Made([operation.inputs[0]], [*before, Layer("DepthwiseConv2D", config, [kernel], variables)])


def dilated(operation: Any, graph: Frozen) -> Made:
    """Convert a dilated convolution in the old form: a plain one between two rearrangements of the pixels."""
    inner = graph.source(operation.inputs[0]).op
    outer = graph.source(inner.inputs[0]).op if inner.type in ("Conv2D", "DepthwiseConv2dNative") else None
    constant = outer is not None and outer.type == "SpaceToBatchND" and [*outer.inputs[1:], *operation.inputs[1:]]
    if not outer or not constant or not all(map(graph.is_constant, constant)):
        raise NoLayerError(operation.type)
    rate, paddings, _, crops = (graph.value(tensor) for tensor in constant)
    (_, layers) = convolution(inner, graph)
    if layers[-1].config["padding"] != "valid" or len(rate) != 2:
        raise NoLayerError(operation.type)
    config = layers[-1].config
    config["dilation_rate"] = tuple(int(each) for each in rate)
    # The crop removes what was padded to make the size a multiple of the rate.
    rows, columns = ((int(a), int(b)) for a, b in paddings - crops)
    reach = [r * (size - 1) for r, size in zip(config["dilation_rate"], config["kernel_size"], strict=True)]
    if [rows, columns] == [(each // 2, each - each // 2) for each in reach]:
        config["padding"] = "same"
        return Made([outer.inputs[0]], layers)
    return Made([outer.inputs[0]], [*zero_padding(rows, columns), *layers])


def matrix(operation: Any, graph: Frozen) -> Made:
    """Convert a product with a constant matrix to Dense."""
    flags = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
    (kernel,), variables = constants(operation, graph, 1)
    if operation.get_attr(flags[0]) or kernel.ndim != 2:
        raise NoLayerError(f"{operation.type} of a form other than inputs times weights")
    kernel = kernel.T if operation.get_attr(flags[1]) else kernel
    config = {"units": kernel.shape[1], "use_bias": False}
    return Made([operation.inputs[0]], [Layer("Dense", config, [kernel], variables)])


def batch_norm(operation: Any, graph: Frozen) -> Made:
    """Convert the fused inference operation to BatchNormalization."""
    channels_last(operation)
    if operation.get_attr("is_training"):
        raise NoLayerError(f"{operation.type} in training mode")
    constants(operation, graph, 1, 2, 3, 4)
    gamma, beta, mean, variance = operation.inputs[1:5]
    epsilon = float(operation.get_attr("epsilon"))
    return Made([operation.inputs[0]], [batch_normalization(graph, gamma, beta, mean, variance, epsilon)])


def batch_normalization(graph: Frozen, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float) -> Layer:
    """Return the layer with these constants; `gamma` and `beta` may be None and are dropped if they change nothing."""
    config: dict[str, Any] = {"epsilon": epsilon}
    weights, variables = [], []
    for tensor, flag, neutral in ((gamma, "scale", 1), (beta, "center", 0), (mean, None, None), (variance, None, None)):
        value = None if tensor is None else np.ravel(graph.value(tensor))
        origins = [] if tensor is None else list(graph.variables(tensor))
        if flag:
            config[flag] = value is not None and bool(origins or np.any(value != neutral))
        if value is not None and (flag is None or config[flag]):
            weights.append(value)
            variables += origins
    return Layer("BatchNormalization", config, weights, tuple(variables))
