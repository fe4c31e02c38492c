"""Prepare the converter's float graph for quantization: operators it would leave in float in another form."""

from collections import Counter
from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import (
    added_buffer,
    drop_unused_codes,
    items,
    kind_of,
    new_operator,
    operator_code,
    stored,
)

_LARGEST = float(np.finfo(np.float32).max)
_VERSION = 2  # of SLICE, from which on it takes int8


def without_unread_parts(model: Any, subgraph: Any) -> bool:
    """Read the parts of a SPLIT one by one, as SLICE, where an operator reads only some of them. For `rewritten`.

    The converter leaves a SPLIT with an unread result in float, in some runs but not in others. LSTMs that start from
    zeros have one: nothing is left of the gate that is multiplied by the first state.
    """
    from ai_edge_litert import schema_py_generated as schema

    read = {int(index) for operator in items(subgraph.operators) for index in items(operator.inputs)}
    read |= {int(index) for index in items(subgraph.outputs)}
    operators: list[Any] = []
    changed = False
    for operator in list(items(subgraph.operators)):
        kind = kind_of(model.operatorCodes[operator.opcodeIndex])
        parts = [int(index) for index in items(operator.outputs)]
        if kind == schema.BuiltinOperator.SPLIT and not read.issuperset(parts):
            operators += _slices(model, subgraph, operator, [part in read for part in parts])
            changed = True
        else:
            operators.append(operator)
    subgraph.operators = operators
    return changed


def _slices(model: Any, subgraph: Any, split: Any, wanted: list[bool]) -> list[Any]:
    """Return operators that give the `wanted` results of `split`; only `split` itself if its axis is not stored."""
    from ai_edge_litert import schema_py_generated as schema

    axis_tensor, source = (int(index) for index in split.inputs)
    found = stored(model, subgraph.tensors[axis_tensor])
    rank = len(items(subgraph.tensors[source].shape))
    if found is None or not rank:
        return [split]
    axis = int(np.frombuffer(found.tobytes(), np.int32)[0]) % rank
    slices = []
    for number, (part, needed) in enumerate(zip(split.outputs, wanted, strict=True)):
        if not needed:
            continue
        width = int(subgraph.tensors[int(part)].shape[axis])
        begin, size = np.zeros(rank, np.int32), np.full(rank, -1, np.int32)  # -1: all that follows
        begin[axis], size[axis] = number * width, width
        inputs = [source, *(added_constant(model, subgraph, values) for values in (begin, size))]
        kind, options = schema.BuiltinOperator.SLICE, schema.SliceOptionsT()
        slices.append(new_operator(model, kind, inputs, [part], options, _VERSION))
    return slices


def with_products(model: Any, subgraph: Any) -> bool:
    """Make each float SQUARE and NEG a MUL, since they have no integer form. For `rewritten`.

    Not while a model is traced: the converter knows GELU by its NEG.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds, changed = schema.BuiltinOperator, False
    for operator in items(subgraph.operators):
        kind, source = kind_of(model.operatorCodes[operator.opcodeIndex]), int(operator.inputs[0])
        if kind not in (kinds.SQUARE, kinds.NEG) or subgraph.tensors[source].type != schema.TensorType.FLOAT32:
            continue
        factor = source if kind == kinds.SQUARE else added_constant(model, subgraph, np.array([-1], np.float32))
        operator.opcodeIndex = operator_code(model, kinds.MUL, version=1)
        operator.inputs = np.array([source, factor], np.int32)
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
        changed = True
    if changed:
        drop_unused_codes(model)
    return changed


def with_merged_factors(model: Any, subgraph: Any) -> bool:
    """Multiply by constants one after the other only once, by their product. For `rewritten`.

    A Rescaling and a Normalization give the channels sizes in between that one scale may not hold.
    """
    from ai_edge_litert import schema_py_generated as schema

    mul, readers = schema.BuiltinOperator.MUL, Counter(int(end) for end in items(subgraph.outputs))
    for operator in items(subgraph.operators):
        readers.update(int(end) for end in items(operator.inputs))
    scaled: dict[int, tuple[Any, int, np.ndarray]] = {}
    merged = []
    for operator in items(subgraph.operators):
        if kind_of(model.operatorCodes[operator.opcodeIndex]) != mul:
            continue
        source, factor = _factor(model, subgraph, operator)
        if factor is not None and source in scaled and readers[source] == 1:
            first, origin, before = scaled[source]
            product = before.astype(np.float64) * factor
            if np.abs(product).max(initial=0) < _LARGEST and (product.astype(np.float32) != 0).all():
                source, factor = origin, product.astype(np.float32)
                operator.inputs = np.array([source, added_constant(model, subgraph, factor)], np.int32)
                merged.append(id(first))
        if factor is not None and not operator.builtinOptions.fusedActivationFunction:
            scaled[int(operator.outputs[0])] = operator, source, factor
    subgraph.operators = [operator for operator in items(subgraph.operators) if id(operator) not in merged]
    return bool(merged)


def _factor(model: Any, subgraph: Any, operator: Any) -> tuple[int, np.ndarray | None]:
    """Return what a MUL multiplies, and the float constant by which it does; None if there is none."""
    from ai_edge_litert import schema_py_generated as schema

    ends = [int(end) for end in operator.inputs]
    for source, other in (ends, ends[::-1]):
        tensor = subgraph.tensors[other]
        found = stored(model, tensor)
        if tensor.type == schema.TensorType.FLOAT32 and found is not None:
            values = np.frombuffer(found.tobytes(), np.float32)
            return source, values.reshape([int(size) for size in items(tensor.shape)])
    return ends[0], None


def with_rounded_reads(model: Any, subgraph: Any) -> bool:
    """Let all readers of a value that is rounded read the rounded one. For `rewritten`.

    After `Quantize`, a value may be rounded for one reader and not for another: the mean of a layer, and the same mean
    inside a variance, are one operator. It would stay in float.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds, types = schema.BuiltinOperator, schema.TensorType
    operators = [(kind_of(model.operatorCodes[each.opcodeIndex]), each) for each in items(subgraph.operators)]
    keeping = (kinds.CAST, kinds.QUANTIZE)  # a CAST marks values that stay unrounded
    read = {int(end) for kind, each in operators if kind not in keeping for end in items(each.inputs)}
    made = {int(end) for _, each in operators for end in items(each.outputs)}
    rounding = {int(each.inputs[0]): each for kind, each in operators if kind == kinds.QUANTIZE}
    shared = {end for end in read & made & set(rounding) if subgraph.tensors[end].type == types.FLOAT32}
    floats = {end: _float_like(subgraph, end) for end in sorted(shared)}
    moved = {id(rounding[end]) for end in shared}
    subgraph.operators = []
    for kind, operator in operators:
        if id(operator) in moved:
            continue
        if kind not in keeping:
            ends = (int(end) for end in items(operator.inputs))
            operator.inputs = np.array([floats.get(end, end) for end in ends], np.int32)
        subgraph.operators.append(operator)
        for end in (int(end) for end in items(operator.outputs) if int(end) in shared):
            back = new_operator(model, kinds.DEQUANTIZE, rounding[end].outputs, [floats[end]], version=2)
            subgraph.operators += [rounding[end], back]
    return bool(shared)


def with_float_divisions(model: Any, subgraph: Any) -> bool:
    """Make each int8 DIV a float one, between DEQUANTIZE and QUANTIZE, which the quantizer fuses. For `rewritten`.

    After `Quantize`, a DIV whose ranges are trained is int8 before other ranges are measured. TensorFlow's calibrator
    fails there for any divisor that is stored as 0, whatever number this stands for.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds, types = schema.BuiltinOperator, schema.TensorType
    operators: list[Any] = []
    for operator in list(items(subgraph.operators)):
        kind, target = kind_of(model.operatorCodes[operator.opcodeIndex]), int(operator.outputs[0])
        if kind != kinds.DIV or subgraph.tensors[target].type != types.INT8:
            operators.append(operator)
            continue
        inputs = [int(index) for index in operator.inputs]
        floats = [_float_like(subgraph, index) for index in (*inputs, target)]
        operator.inputs, operator.outputs = np.array(floats[:2], np.int32), np.array(floats[2:], np.int32)
        operators += [
            new_operator(model, kinds.DEQUANTIZE, [source], [made], version=2)
            for source, made in zip(inputs, floats, strict=False)
        ]
        operators += [operator, new_operator(model, kinds.QUANTIZE, floats[2:], [target], version=2)]
    changed = len(operators) > len(items(subgraph.operators))
    subgraph.operators = operators
    return changed


def _float_like(subgraph: Any, index: int) -> int:
    """Add a float tensor of the shape of another one to the subgraph, and return its index."""
    from ai_edge_litert import schema_py_generated as schema

    made = added_like(subgraph, subgraph.tensors[index], subgraph.tensors[index].shape)
    subgraph.tensors[made].type = schema.TensorType.FLOAT32
    subgraph.tensors[made].shapeSignature = subgraph.tensors[index].shapeSignature
    return made


def without_block_moves(model: Any, subgraph: Any) -> bool:
    """Make RESHAPE, TRANSPOSE and RESHAPE of DEPTH_TO_SPACE and SPACE_TO_DEPTH of fixed sizes. For `rewritten`.

    They have no form with int16 activations, and litert-quantizer leaves them in float.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    operators: list[Any] = []
    changed = False
    for operator in list(items(subgraph.operators)):
        kind = kind_of(model.operatorCodes[operator.opcodeIndex])
        ends = [subgraph.tensors[int(index)] for index in (operator.inputs[0], operator.outputs[0])]
        free = any(int(size) < 0 for end in ends for size in items(end.shapeSignature))
        if kind not in (kinds.DEPTH_TO_SPACE, kinds.SPACE_TO_DEPTH) or free:
            operators.append(operator)
            continue
        batch, height, width, channels = (int(size) for size in ends[0].shape)
        size = int(operator.builtinOptions.blockSize)
        # The rows of a block are one axis, its columns are one with the channels; rows and columns of blocks swap.
        if kind == kinds.DEPTH_TO_SPACE:
            split = (batch * height, width, size, channels // size)
        else:
            split = (batch * height // size, size, width // size, size * channels)
        operators += _moves(model, subgraph, operator, split)
        changed = True
    subgraph.operators = operators
    if changed:
        drop_unused_codes(model)
    return changed


def _moves(model: Any, subgraph: Any, operator: Any, split: tuple[int, int, int, int]) -> list[Any]:
    """Return operators that reshape the input of `operator` to `split`, swap the middle axes, and reshape."""
    from ai_edge_litert import schema_py_generated as schema

    source, target = int(operator.inputs[0]), int(operator.outputs[0])
    swapped = (split[0], split[2], split[1], split[3])
    between = [added_like(subgraph, subgraph.tensors[source], shape) for shape in (split, swapped)]
    axes = added_constant(model, subgraph, np.array([0, 2, 1, 3], np.int32))
    kind, options = schema.BuiltinOperator.TRANSPOSE, schema.TransposeOptionsT()
    transpose = new_operator(model, kind, [between[0], axes], [between[1]], options)
    shape = np.array(subgraph.tensors[target].shape, np.int32)
    return [
        _reshape(model, subgraph, source, between[0], np.array(split, np.int32)),
        transpose,
        _reshape(model, subgraph, between[1], target, shape),
    ]


def _reshape(model: Any, subgraph: Any, source: int, target: int, shape: np.ndarray) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    options = schema.ReshapeOptionsT()
    options.newShape = shape
    inputs = [source, added_constant(model, subgraph, shape)]
    return new_operator(model, schema.BuiltinOperator.RESHAPE, inputs, [target], options)


def added_like(subgraph: Any, tensor: Any, shape: tuple[int, ...]) -> int:
    """Add a tensor of the type of `tensor` to the subgraph, and return its index."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.shape, made.type, made.buffer = np.array(shape, np.int32), tensor.type, 0
    made.name = (tensor.name or b"") + f"_moved{len(subgraph.tensors)}".encode()  # litert-quantizer: unique
    subgraph.tensors.append(made)
    return len(subgraph.tensors) - 1


def added_constant(model: Any, subgraph: Any, values: np.ndarray) -> int:
    """Add a constant, int32 or float32, to the subgraph, and return its index."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.shape = np.array(values.shape, np.int32)
    made.type = schema.TensorType.INT32 if values.dtype == np.int32 else schema.TensorType.FLOAT32
    made.name = f"constant{len(subgraph.tensors)}".encode()
    made.buffer = added_buffer(model, values)
    subgraph.tensors.append(made)
    return len(subgraph.tensors) - 1


FORMS = (without_unread_parts, with_products, with_merged_factors, with_rounded_reads, with_float_divisions)
