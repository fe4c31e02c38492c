"""Repair int8 operators: comparisons left in float, products without a range, states of LSTMs."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import BIAS_OPERAND, added_buffer, items, kind_of, new_operator, stored

_COMPARING = ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
_PLACING = ("ARG_MAX", "ARG_MIN")
_NOTHING = 1e-8  # largest scale of a tensor that was zero in all samples: the converter uses 1e-6 as its range
_RESCALING = ("ADD", "SUB", "MUL")  # these use the scale of each operand
_HIDDEN_STATE, _CELL_STATE, _HIDDEN_SCALE = 18, 19, 4  # operands of an LSTM operator, and one of its intermediates
_CELL_SCALES = 2.0**-15, 2.0**-9  # between which LiteRT has a tanh of an int16 cell state
# Scale and zero point of outputs for which LiteRT allows no other, and their types.
_FIXED = {
    "SOFTMAX": (1 / 256, -128),
    "LOGISTIC": (1 / 256, -128),
    "TANH": (1 / 128, 0),
    "L2_NORMALIZATION": (1 / 128, 0),
}
_TYPES = np.float32, np.int64
_VERSION = 2  # the first version of these operators that supports int8


def with_integer_comparisons(model: Any, subgraph: Any) -> bool:
    """Compare int8 values of a subgraph with constants directly, without DEQUANTIZE. For `rewritten`.

    The constant is rounded to the scale of the values, as they were: equal values stay equal, and values nearer than
    half a step become equal.
    """
    return _on_integers(model, subgraph, _COMPARING, _integers)


def with_integer_maxima(model: Any, subgraph: Any) -> bool:
    """Find the place of the largest or smallest of int8 values directly, without DEQUANTIZE. For `rewritten`."""
    return _on_integers(model, subgraph, _PLACING, _integers_alone)


def _on_integers(model: Any, subgraph: Any, names: Sequence[str], inputs_of: Callable[..., np.ndarray | None]) -> bool:
    """Let operators read int8 values directly, where `inputs_of` gives the operands that they then have."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    chosen = {getattr(kinds, name) for name in names}
    operators = list(items(subgraph.operators))
    unpacking = {
        int(operator.outputs[0]): operator
        for operator in operators
        if kind_of(model.operatorCodes[operator.opcodeIndex]) == kinds.DEQUANTIZE
        and subgraph.tensors[int(operator.inputs[0])].type == schema.TensorType.INT8
        and _data(model, subgraph.tensors[int(operator.inputs[0])]) is None
    }
    changed = False
    for operator in operators:
        kind = kind_of(model.operatorCodes[operator.opcodeIndex])
        if kind in chosen and (inputs := inputs_of(model, subgraph, operator, unpacking)) is not None:
            operator.inputs = inputs
            code = model.operatorCodes[operator.opcodeIndex]
            code.version = max(code.version, _VERSION)
            changed = True
    read = {int(index) for operator in operators for index in items(operator.inputs)}
    read |= {int(index) for index in items(subgraph.outputs)}
    unread = [id(operator) for output, operator in unpacking.items() if output not in read]
    subgraph.operators = [operator for operator in operators if not changed or id(operator) not in unread]
    return changed


def _integers_alone(model: Any, subgraph: Any, operator: Any, unpacking: dict[int, Any]) -> np.ndarray | None:
    """Return the operands of an operator with the integers of its first one; None where these are not unpacked."""
    del model, subgraph
    values, *others = (int(index) for index in operator.inputs)
    return np.array([unpacking[values].inputs[0], *others], np.int32) if values in unpacking else None


def _integers(model: Any, subgraph: Any, operator: Any, unpacking: dict[int, Any]) -> np.ndarray | None:
    """Return the operands of a comparison of a value with a constant as int8 tensors; None for any other operator."""
    ends = [int(index) for index in operator.inputs]
    values = [number for number in (0, 1) if ends[number] in unpacking]
    constants = [number for number in (0, 1) if _data(model, subgraph.tensors[ends[number]]) is not None]
    if len(values) != 1 or len(constants) != 1:
        return None
    source = int(unpacking[ends[values[0]]].inputs[0])
    integers = _rounded(model, subgraph.tensors[ends[constants[0]]], subgraph.tensors[source])
    if integers is None:
        return None
    ends[values[0]] = source
    ends[constants[0]] = _added(model, subgraph, subgraph.tensors[ends[constants[0]]], integers, source)
    return np.array(ends, np.int32)


def _rounded(model: Any, constant: Any, like: Any) -> np.ndarray | None:
    """Return a float constant as integers with the scale of the tensor `like`, or None if its range is too small."""
    floats = np.frombuffer(np.asarray(_data(model, constant), np.uint8).tobytes(), np.float32)
    scale, zero = like.quantization.scale[0], like.quantization.zeroPoint[0]
    integers = np.asarray(np.rint(floats / scale) + zero)
    # A constant at the end of the range may miss it by the rounding of the zero point. If one further away were
    # clipped, it would equal values that differ from it.
    if np.any((integers < -129) | (integers > 128)):
        return None
    rounded: np.ndarray = np.clip(integers, -128, 127).astype(np.int8)
    return rounded


def _added(model: Any, subgraph: Any, constant: Any, integers: np.ndarray, source: int) -> int:
    """Add a tensor of `integers` to replace a float constant, with the scale of `source`; return its index."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.shape, made.type = constant.shape, schema.TensorType.INT8
    made.quantization = subgraph.tensors[source].quantization
    made.name = (constant.name or b"") + b"_rounded"
    made.buffer = added_buffer(model, integers)
    subgraph.tensors.append(made)
    return len(subgraph.tensors) - 1


def _data(model: Any, tensor: Any) -> Any:
    return model.buffers[tensor.buffer].data


def with_right_lstm_states(model: Any, subgraph: Any) -> bool:
    """Give the states of int8 LSTM operators the scales with which LiteRT computes right. For `rewritten`.

    The converter gives the cell state the least power of two that holds it. For a state below 0.5, LiteRT has no tanh,
    and the outputs are whatever memory held; from 64 on, tanh is 1 anyway. Where the output has been given another
    scale than the hidden state, as before a CONCATENATION, LiteRT mixes them up: both are the output.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    changed = False
    for operator in items(subgraph.operators):
        if kind_of(model.operatorCodes[operator.opcodeIndex]) != kinds.UNIDIRECTIONAL_SEQUENCE_LSTM:
            continue
        output = subgraph.tensors[int(operator.outputs[0])].quantization
        cell = subgraph.tensors[int(operator.inputs[_CELL_STATE])]
        if cell.type != schema.TensorType.INT16 or output is None:
            continue
        scale = np.clip(cell.quantization.scale, *_CELL_SCALES).astype(np.float32)
        changed |= bool(np.any(scale != cell.quantization.scale))
        cell.quantization.scale = scale
        for index in (operator.inputs[_HIDDEN_STATE], items(operator.intermediates)[_HIDDEN_SCALE]):
            hidden = subgraph.tensors[int(index)].quantization
            changed |= bool(hidden.scale[0] != output.scale[0] or hidden.zeroPoint[0] != output.zeroPoint[0])
            hidden.scale, hidden.zeroPoint = output.scale, output.zeroPoint
    return changed


def with_products_in_range(model: Any, subgraph: Any) -> bool:
    """Give products that were zero for all samples the range that their factors allow. For `rewritten`.

    One example is a state times the mask that would keep it, at a step that no sample masks. XNNPACK rejects the tiny
    scale that the converter chooses, and any nonzero value would be lost.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    operators = [(kind_of(model.operatorCodes[each.opcodeIndex]), each) for each in items(subgraph.operators)]
    rescaling = {getattr(kinds, name) for name in _RESCALING}
    elsewhere = {int(end) for kind, each in operators if kind not in rescaling for end in items(each.inputs)}
    elsewhere |= {int(end) for end in items(subgraph.outputs)}
    changed = False
    for kind, operator in operators:
        if kind != kinds.MUL:
            continue
        target = subgraph.tensors[int(operator.outputs[0])]
        if target.type != schema.TensorType.INT8 or int(operator.outputs[0]) in elsewhere:
            continue
        if target.quantization.scale[0] > _NOTHING:
            continue
        ends = [_ends(subgraph.tensors[int(index)]) for index in operator.inputs]
        products = [a * b for a in ends[0] for b in ends[1]]
        _set_range(target, min(products), max(products))
        changed = True
    return changed


def _ends(tensor: Any) -> tuple[float, float]:
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return scale * (-128 - zero), scale * (127 - zero)


def _set_range(tensor: Any, low: float, high: float) -> None:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    tensor.quantization.scale = np.array([scale], np.float32)
    tensor.quantization.zeroPoint = np.array([round(-128 - low / scale)], np.int64)


def with_divisors_off_zero(model: Any, subgraph: Any) -> bool:
    """Keep int8 divisors of one sign one step away from zero. For `rewritten`.

    A divisor below half a step is stored as zero, and LiteRT ends the invocation with an error.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    operators: list[Any] = []
    for operator in list(items(subgraph.operators)):
        divisor = int(operator.inputs[1]) if kind_of(model.operatorCodes[operator.opcodeIndex]) == kinds.DIV else -1
        tensor = subgraph.tensors[divisor]
        if divisor >= 0 and tensor.type == schema.TensorType.INT8 and _data(model, tensor) is None:
            zero = int(tensor.quantization.zeroPoint[0])
            if zero in (-128, 127):
                kind, nearest = (kinds.MAXIMUM, zero + 1) if zero < 0 else (kinds.MINIMUM, zero - 1)
                operators.append(_bounded(model, subgraph, divisor, kind, nearest))
                operator.inputs = np.array([operator.inputs[0], operators[-1].outputs[0]], np.int32)
        operators.append(operator)
    changed = len(operators) > len(items(subgraph.operators))
    subgraph.operators = operators
    return changed


def with_right_categories(model: Any, subgraph: Any) -> bool:
    """Give the two values of an int8 ONE_HOT the scale of its result. For `rewritten`.

    LiteRT copies their integers, but the converter quantizes 0 with a separate scale, which then reads as 0.5.
    """
    from ai_edge_litert import schema_py_generated as schema

    changed = False
    for operator in items(subgraph.operators):
        result = int(operator.outputs[0])
        if kind_of(model.operatorCodes[operator.opcodeIndex]) != schema.BuiltinOperator.ONE_HOT:
            continue
        if subgraph.tensors[result].type != schema.TensorType.INT8:
            continue
        ends = [int(index) for index in operator.inputs]
        for place in (2, 3):
            value = subgraph.tensors[ends[place]]
            if (data := _data(model, value)) is not None:
                reals = _reals(value, np.frombuffer(bytes(data), np.int8))
                ends[place] = _added(model, subgraph, value, _on_scale_of(subgraph.tensors[result], reals), result)
                changed = True
        operator.inputs = np.array(ends, np.int32)
    return changed


def _reals(tensor: Any, integers: np.ndarray) -> np.ndarray:
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return (integers.astype(np.float64) - zero) * scale


def _on_scale_of(tensor: Any, reals: np.ndarray) -> np.ndarray:
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return np.asarray(np.clip(np.rint(reals / scale) + zero, -128, 127), np.int8)


def _bounded(model: Any, subgraph: Any, source: int, kind: int, bound: int) -> Any:
    """Return a MAXIMUM or MINIMUM of an int8 tensor and an integer of its scale, with a new output."""
    from ai_edge_litert import schema_py_generated as schema

    constant = copy.copy(subgraph.tensors[source])
    constant.shape, constant.shapeSignature = np.array([], np.int32), None
    number = _added(model, subgraph, constant, np.array([bound], np.int8), source)
    bounded = _like(subgraph, source, b"_bounded")
    return new_operator(model, kind, [source, number], [bounded], schema.MaximumMinimumOptionsT(), version=2)


def with_fixed_ranges(model: Any, subgraph: Any) -> bool:
    """Give int8 operators with a fixed output scale that scale, and rescale behind them. For `rewritten`.

    The converter makes a SOFTMAX of exp(x) / sum(exp(x)) written by hand, whose output has the range trained for the
    division. LiteRT refuses it.
    """
    from ai_edge_litert import schema_py_generated as schema

    fixed = {getattr(schema.BuiltinOperator, name): scale for name, scale in _FIXED.items()}
    operators: list[Any] = []
    for operator in list(items(subgraph.operators)):
        operators.append(operator)
        kind, target = kind_of(model.operatorCodes[operator.opcodeIndex]), int(operator.outputs[0])
        tensor = subgraph.tensors[target]
        if kind not in fixed or tensor.type != schema.TensorType.INT8 or _is_scaled(tensor, *fixed[kind]):
            continue
        made = _like(subgraph, target, b"_fixed")
        right = subgraph.tensors[made].quantization = schema.QuantizationParametersT()
        right.scale, right.zeroPoint = (np.array([end], kind) for end, kind in zip(fixed[kind], _TYPES, strict=True))
        operator.outputs = np.array([made], np.int32)
        operators.append(new_operator(model, schema.BuiltinOperator.QUANTIZE, [made], [target], version=2))
    changed = len(operators) > len(items(subgraph.operators))
    subgraph.operators = operators
    return changed


def with_nonempty_ranges(model: Any, subgraph: Any) -> bool:
    """Give tensors that were 0 in all samples the range 0 to 1. For `rewritten`, after calibration.

    A layer whose units are all dead has such outputs. LiteRT refuses the scale that the converter gives them.
    """
    del model
    changed, least = False, float(np.finfo(np.float32).tiny)  # the calibrator's start for a maximum
    for tensor in items(subgraph.tensors):
        ranges = tensor.quantization
        if ranges is not None and len(items(ranges.min)) == 1 and 0 <= ranges.min[0] <= ranges.max[0] <= least:
            ranges.max, changed = np.array([1.0], np.float32), True
    return changed


def with_own_biases(model: Any, subgraph: Any) -> bool:
    """Give every call of a shared layer its own bias. For `rewritten`, before int16.

    Its scale is that of the inputs times that of the weights, so each call needs another; TensorFlow's 16x8 quantizer
    gives all of them that of one call.
    """
    from ai_edge_litert import schema_py_generated as schema

    operands = {getattr(schema.BuiltinOperator, name): place for name, place in BIAS_OPERAND.items()}
    read: set[int] = set()
    changed = False
    for operator in items(subgraph.operators):
        place = operands.get(kind_of(model.operatorCodes[operator.opcodeIndex]))
        if place is None or len(items(operator.inputs)) <= place or (bias := int(operator.inputs[place])) < 0:
            continue
        if bias in read and (values := stored(model, subgraph.tensors[bias])) is not None:
            own = _like(subgraph, bias, f"_call{len(subgraph.tensors)}".encode())
            subgraph.tensors[own].buffer = added_buffer(model, values)
            operator.inputs = np.array([*operator.inputs[:place], own, *operator.inputs[place + 1 :]], np.int32)
            changed = True
        read.add(bias)
    return changed


def _is_scaled(tensor: Any, scale: float, zero: int) -> bool:
    given = tensor.quantization
    return bool(np.isclose(given.scale[0], scale, rtol=1e-3)) and int(given.zeroPoint[0]) == zero


def _like(subgraph: Any, index: int, ending: bytes) -> int:
    """Add a tensor like another one, without content, to the subgraph, and return its index."""
    made = copy.copy(subgraph.tensors[index])
    made.buffer, made.name = 0, (made.name or b"") + ending
    subgraph.tensors.append(made)
    return len(subgraph.tensors) - 1


REPAIRS = (
    with_integer_comparisons,
    with_integer_maxima,
    with_products_in_range,
    with_right_lstm_states,
    with_divisors_off_zero,
    with_right_categories,
    with_fixed_ranges,
)
