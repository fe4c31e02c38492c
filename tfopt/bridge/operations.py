"""Operations of `keras.ops` (and of TensorFlow, in tf_keras graphs) as tf_keras layers.

The result of an operation depends on its arguments, so each call gets a separate layer. Without an equivalent layer
the functions return None, and the operation is carried as it is (`carried.py`).
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.bridge import activations
from tfopt.graph import keras_internals
from tfopt.graph.types import Call, Ref, refs_in


@dataclasses.dataclass(frozen=True)
class Native:
    """The layer for one call of an operation: its class in tf_keras.layers, its arguments, its inputs."""

    layer: str
    config: dict[str, Any]
    inputs: Any  # a Ref or a list of Refs


def native(call: Call) -> Native | None:
    """Return the tf_keras layer equivalent to this call of a Keras 3 operation, or None."""
    operation = call.leaf.layer
    build = _TABLE.get(type(operation).__name__) if keras_internals.is_part_of_keras3(operation) else None
    if build is None:
        return None
    given = inspect.signature(operation.call).bind(*call.args, **call.kwargs).arguments
    return _checked(call, build(operation, {**given, "made": call.outputs[0]}))


def native_of_tensorflow(call: Call) -> Native | None:
    """Return the layer for a TFOpLambda of tf_keras, which `x + 1` or `tf.nn.relu(x)` leave in its graphs, or None."""
    build = _OF_TENSORFLOW.get(getattr(call.leaf.layer, "symbol", None) or "")
    if build is None:
        return None
    names, _ = keras_internals.call_names(call.leaf.layer)
    named = [call.kwargs[name] for name in names[1:] if name in call.kwargs and name != "name"]
    return _checked(call, build([*call.args, *named]))


def _checked(call: Call, found: Native | None) -> Native | None:
    """Return `found`, unless the call has a mask, which operations drop and layers pass on, or mixes dtypes."""
    refs = list(refs_in([call.args, call.kwargs]))
    if found is None or any(ref.masked for ref in refs) or len({ref.dtype for ref in refs}) != 1:
        return None
    return found if "float" in refs[0].dtype else None


def _constant(value: Any) -> float | np.ndarray | None:
    """Return `value` as a number or array; None for tensors of the graph and non-numeric values."""
    if isinstance(value, Ref) or type(value).__name__ in ("Variable", "KerasVariable", "ResourceVariable"):
        return None
    if isinstance(value, (bool, str)) or value is None:
        return None
    try:
        array = np.asarray(value)
    except Exception:
        return None
    if array.dtype.kind not in "iuf":
        return None
    return float(array) if array.ndim == 0 else array


def _rescaling(x: Any, scale: Any, offset: Any) -> Native | None:
    """Return x * scale + offset; arrays only if they do not broadcast x to a larger shape."""
    for number in (scale, offset):
        shape = np.shape(number)
        if shape:
            if x.shape is None or len(shape) > len(x.shape) - 1:
                return None
            tail = x.shape[len(x.shape) - len(shape) :]
            if any(size not in (1, axis) for size, axis in zip(shape, tail, strict=True)):
                return None
    plain = [number.tolist() if isinstance(number, np.ndarray) else number for number in (scale, offset)]
    return Native("Rescaling", {"scale": plain[0], "offset": plain[1]}, x)


def _merge(layer: str, a: Any, b: Any) -> Native | None:
    """Return a merge layer; it broadcasts over axes but needs inputs of equal rank."""
    if not isinstance(a, Ref) or not isinstance(b, Ref) or a.shape is None or b.shape is None:
        return None
    if len(a.shape) != len(b.shape) or len(a.shape) < 2 or a.shape[0] != b.shape[0]:
        return None
    return Native(layer, {}, [a, b])


def _add(a: Any, b: Any) -> Native | None:
    for x, c in ((a, _constant(b)), (b, _constant(a))):
        if c is not None:
            return _rescaling(x, 1.0, c)
    return _merge("Add", a, b)


def _subtract(a: Any, b: Any) -> Native | None:
    if (c := _constant(b)) is not None:
        return _rescaling(a, 1.0, -c)
    if (c := _constant(a)) is not None:
        return _rescaling(b, -1.0, c)
    return _merge("Subtract", a, b)


def _multiply(a: Any, b: Any) -> Native | None:
    for x, c in ((a, _constant(b)), (b, _constant(a))):
        if c is not None:
            return _rescaling(x, c, 0.0)
    return _merge("Multiply", a, b)


def _divide(a: Any, b: Any) -> Native | None:
    c = _constant(b)
    return None if c is None or not np.all(c) else _rescaling(a, 1.0 / c, 0.0)


def _maximum(a: Any, b: Any) -> Native | None:
    for x, c in ((a, _constant(b)), (b, _constant(a))):
        if isinstance(c, float):
            return Native("ReLU", {}, x) if c == 0.0 else None
    return _merge("Maximum", a, b)


def _clip(x: Any, low: Any, high: Any) -> Native | None:
    if low == 0 and isinstance(high, (int, float)) and high > 0:
        return Native("ReLU", {"max_value": float(high)}, x)
    return None


def _activation(name: str) -> Callable[[Any, dict[str, Any]], Native | None]:
    return lambda operation, given: Native("Activation", {"activation": activations.twin(name)}, _first(given))


def _first(given: dict[str, Any]) -> Any:
    return next(iter(given.values()))


def _softmax(operation: Any, given: dict[str, Any]) -> Native | None:
    return None if operation.axis is None else Native("Softmax", {"axis": operation.axis}, _first(given))


def _gelu(operation: Any, given: dict[str, Any]) -> Native | None:
    # tf_keras's "gelu" is the exact one; the approximation has a registered function.
    name = "gelu_approximate" if operation.approximate else "gelu"
    return Native("Activation", {"activation": activations.twin(name)}, _first(given))


def _concatenate(operation: Any, given: dict[str, Any]) -> Native | None:
    xs = list(_first(given))
    if not all(isinstance(x, Ref) and x.shape is not None for x in xs) or len(xs) < 2:
        return None
    axis = operation.axis % len(xs[0].shape)
    return Native("Concatenate", {"axis": axis}, xs) if axis else None


def _shape_only(operation: Any, given: dict[str, Any]) -> Native | None:
    """Return the layer of Reshape, ExpandDims or Squeeze if the batch axis stays and the other axes are known."""
    x, made = _first(given), given["made"]
    if x.shape is None or made.shape is None or not made.shape or x.shape[0] != made.shape[0]:
        return None
    if None in made.shape[1:] or None in x.shape[1:] or x.shape[0] is not None:
        return None
    if math.prod(made.shape[1:]) != math.prod(x.shape[1:]):  # it moves values from one sample to another
        return None
    return Native("Reshape", {"target_shape": list(made.shape[1:])}, x)


def _transpose(operation: Any, given: dict[str, Any]) -> Native | None:
    x, axes = _first(given), operation.axes
    if axes is None or x.shape is None or len(axes) < 2:
        return None
    axes = [axis % len(x.shape) for axis in axes]
    return Native("Permute", {"dims": axes[1:]}, x) if axes[0] == 0 else None


def _pool_over(kind: str, x: Any, axis: Any, keepdims: Any) -> Native | None:
    if not isinstance(x, Ref) or x.shape is None or axis is None:
        return None
    over = sorted(a % len(x.shape) for a in ([axis] if isinstance(axis, int) else axis))
    rank = len(x.shape) - 2
    if rank not in (1, 2, 3) or over != list(range(1, rank + 1)):
        return None
    return Native(f"Global{kind}Pooling{rank}D", {"keepdims": bool(keepdims)}, x)


def _reduce(kind: str) -> Callable[[Any, dict[str, Any]], Native | None]:
    def build(operation: Any, given: dict[str, Any]) -> Native | None:
        if getattr(operation, "initial", None) is not None:
            return None
        return _pool_over(kind, _first(given), operation.axis, operation.keepdims)

    return build


def _pool(kind: str) -> Callable[[Any, dict[str, Any]], Native | None]:
    def build(operation: Any, given: dict[str, Any]) -> Native | None:
        x = _first(given)
        if x.shape is None or operation.data_format not in (None, "channels_last") or len(x.shape) not in (3, 4, 5):
            return None
        config = {"pool_size": operation.pool_size, "strides": operation.strides, "padding": operation.padding}
        return Native(f"{kind}Pooling{len(x.shape) - 2}D", config, x)

    return build


def _pad(operation: Any, given: dict[str, Any]) -> Native | None:
    x, widths = given["x"], [tuple(width) for width in operation.pad_width]
    if operation.mode != "constant" or given.get("constant_values") not in (None, 0) or x.shape is None:
        return None
    if len(widths) != len(x.shape) or len(widths) not in (3, 4, 5) or widths[0] != (0, 0) or widths[-1] != (0, 0):
        return None
    inner = widths[1:-1]
    return Native(f"ZeroPadding{len(inner)}D", {"padding": inner if len(inner) > 1 else inner[0]}, x)


def _binary(function: Callable[[Any, Any], Native | None]) -> Callable[[Any, dict[str, Any]], Native | None]:
    return lambda operation, given: function(given["x1"], given["x2"])


def _one(layer: str, *names: str) -> Callable[[Any, dict[str, Any]], Native | None]:
    """Return a builder of a one-input layer from the operation's attributes `names`, "theirs:ours" if they differ."""
    pairs = [(name.partition(":")[0], name.partition(":")[2] or name) for name in names]
    return lambda operation, given: Native(
        layer, {ours: getattr(operation, theirs) for theirs, ours in pairs}, _first(given)
    )


# Keras 3 operation class -> its layer. Adding one means a row in tests/bridge/test_operations.py.
_TABLE: dict[str, Callable[[Any, dict[str, Any]], Native | None]] = {
    "Add": _binary(_add),
    "Subtract": _binary(_subtract),
    "Multiply": _binary(_multiply),
    "Divide": _binary(_divide),
    "TrueDivide": _binary(_divide),
    "Maximum": _binary(_maximum),
    "Minimum": _binary(lambda a, b: _merge("Minimum", a, b)),
    "Negative": lambda operation, given: _rescaling(_first(given), -1.0, 0.0),
    "Square": lambda operation, given: _merge("Multiply", _first(given), _first(given)),
    "Clip": lambda operation, given: _clip(_first(given), operation.x_min, operation.x_max),
    "Relu": _one("ReLU"),
    "Relu6": lambda operation, given: Native("ReLU", {"max_value": 6.0}, _first(given)),
    "LeakyRelu": _one("LeakyReLU", "negative_slope:alpha"),
    "Elu": _one("ELU", "alpha"),
    "Softmax": _softmax,
    "Gelu": _gelu,
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Silu": _activation("silu"),
    "HardSilu": _activation("hard_silu"),
    "HardSigmoid": _activation("hard_sigmoid"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Selu": _activation("selu"),
    "Exp": _activation("exponential"),
    "LogSigmoid": _activation("log_sigmoid"),
    "Concatenate": _concatenate,
    "Reshape": _shape_only,
    "ExpandDims": _shape_only,
    "Squeeze": _shape_only,
    "Transpose": _transpose,
    "Mean": _reduce("Average"),
    "Max": _reduce("Max"),
    "Amax": _reduce("Max"),
    "MaxPool": _pool("Max"),
    "AveragePool": _pool("Average"),
    "Pad": _pad,
}


def _two(function: Callable[[Any, Any], Native | None]) -> Callable[[list[Any]], Native | None]:
    return lambda given: function(*given) if len(given) == 2 else None


# TensorFlow's function name -> its layer.
_OF_TENSORFLOW: dict[str, Callable[[list[Any]], Native | None]] = {
    **dict.fromkeys(("__operators__.add", "math.add"), _two(_add)),
    "math.subtract": _two(_subtract),
    "math.multiply": _two(_multiply),
    **dict.fromkeys(("math.divide", "math.truediv", "realdiv"), _two(_divide)),
    "math.maximum": _two(_maximum),
    "math.minimum": _two(lambda a, b: _merge("Minimum", a, b)),
    "math.square": lambda given: _merge("Multiply", given[0], given[0]),
    "math.negative": lambda given: _rescaling(given[0], -1.0, 0.0),
    "clip_by_value": lambda given: _clip(*given) if len(given) == 3 else None,
    "nn.relu": lambda given: Native("ReLU", {}, given[0]),
    "nn.relu6": lambda given: Native("ReLU", {"max_value": 6.0}, given[0]),
    "math.sigmoid": lambda given: Native("Activation", {"activation": "sigmoid"}, given[0]),
    "math.tanh": lambda given: Native("Activation", {"activation": "tanh"}, given[0]),
    "nn.softmax": lambda given: Native("Softmax", {}, given[0]) if len(given) == 1 else None,
    "nn.silu": lambda given: Native("Activation", {"activation": "swish"}, given[0]) if len(given) == 1 else None,
}
