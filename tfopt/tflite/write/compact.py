"""Rewrite a .tflite without bytes and operators that are not needed to run it."""

import copy
from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import items, kind_of, new_operator, packed, unpacked

# Written by the converter for debugging only.
DEBUG_METADATA = frozenset({b"CONVERSION_METADATA"})


def compact(data: bytes, *, names: bool = False) -> bytes:
    """Return a smaller .tflite that computes the same, bit for bit.

    Removed are the names of inner tensors, the calibration ranges (min, max) of quantized tensors, debug metadata and
    empty buffers. Equal vectors and strings are stored once. The names of inputs and outputs, signatures, all other
    metadata, all numbers that kernels read and the alignment of buffers stay.

    Args:
        data: the file.
        names: keep the names of inner tensors.

    Returns:
        The new file.

    Raises:
        ModelError: `data` is not a .tflite, or has parts that a rewrite would lose: buffers or options outside the
            flatbuffer (files above 2 GB), or an appended archive of associated files.
    """
    model = unpacked(data)
    model.metadata = [entry for entry in items(model.metadata) if entry.name not in DEBUG_METADATA]
    for subgraph in model.subgraphs:
        if not names:
            _drop_names(subgraph)
        for tensor in items(subgraph.tensors):
            if tensor.quantization is not None:
                tensor.quantization.min = tensor.quantization.max = None
    _drop_empty_buffers(model)
    return packed(model, len(data))


def without_detours(model: Any, subgraph: Any) -> bool:
    """Remove detours through float from a subgraph: DEQUANTIZE followed only by QUANTIZE. For `rewritten`.

    The converter leaves them where two given scales differ. If they differ only by a rounding error (1e-5 of the
    scale), both operators are removed, and no integer changes; otherwise a single QUANTIZE converts between the scales.
    """
    from ai_edge_litert import schema_py_generated as schema

    operators = list(items(subgraph.operators))
    kinds = [kind_of(model.operatorCodes[operator.opcodeIndex]) for operator in operators]
    consumers: dict[int, list[int]] = {}
    for number, operator in enumerate(operators):
        for index in items(operator.inputs):
            consumers.setdefault(int(index), []).append(number)
    outputs = {int(index) for index in items(subgraph.outputs)}
    gone: set[int] = set()
    moved: dict[int, int] = {}
    for number, (operator, kind) in enumerate(zip(operators, kinds, strict=True)):
        after = consumers.get(int(operator.outputs[0]), []) if kind == schema.BuiltinOperator.DEQUANTIZE else []
        if not after or int(operator.outputs[0]) in outputs:
            continue
        if any(kinds[place] != schema.BuiltinOperator.QUANTIZE for place in after):
            continue
        source = int(operator.inputs[0])
        if subgraph.tensors[source].type not in (schema.TensorType.INT8, schema.TensorType.INT16):
            continue  # a constant that is unpacked
        gone.add(number)
        for place in after:
            target = int(operators[place].outputs[0])
            operators[place].inputs = np.array([source], np.int32)
            if target not in outputs and _same_scale(subgraph.tensors[source], subgraph.tensors[target]):
                gone.add(place)
                moved[target] = moved.get(source, source)
    for operator in operators:
        if operator.inputs is not None:
            operator.inputs = np.array([moved.get(int(index), int(index)) for index in operator.inputs], np.int32)
    subgraph.operators = [operator for number, operator in enumerate(operators) if number not in gone]
    return bool(gone)


def with_true_reversals(model: Any, subgraph: Any) -> bool:
    """Make the REVERSE_V2 operators of a subgraph reverse values rather than integers. For `rewritten`.

    The kernel moves integers unchanged, but the converter gives the output a different scale than the input if a
    following Concatenate needs it (Bidirectional with return_sequences). Every number is then off by the ratio of the
    scales. A QUANTIZE inserted before the operator converts between them.
    """
    from ai_edge_litert import schema_py_generated as schema

    operators: list[Any] = []
    for operator in items(subgraph.operators):
        kind = kind_of(model.operatorCodes[operator.opcodeIndex])
        if kind == schema.BuiltinOperator.REVERSE_V2:
            source, target = (subgraph.tensors[int(ends[0])] for ends in (operator.inputs, operator.outputs))
            quantized = source.quantization is not None and source.quantization.scale is not None
            if quantized and not _same_scale(source, target):
                between = copy.copy(source)
                between.name = (source.name or b"") + b"_rescaled"
                between.quantization = target.quantization
                subgraph.tensors.append(between)
                made, kind = len(subgraph.tensors) - 1, schema.BuiltinOperator.QUANTIZE  # int8 to int8
                operators.append(new_operator(model, kind, [operator.inputs[0]], [made], version=2))
                operator.inputs = np.array([made, *operator.inputs[1:]], np.int32)
        operators.append(operator)
    changed = len(operators) > len(items(subgraph.operators))
    subgraph.operators = operators
    return changed


def _same_scale(a: Any, b: Any) -> bool:
    one, other = a.quantization, b.quantization
    return (
        a.type == b.type
        and np.array_equal(items(one.zeroPoint), items(other.zeroPoint))
        and np.allclose(items(one.scale), items(other.scale), rtol=1e-5, atol=0.0)
    )


def _drop_names(subgraph: Any) -> None:
    """Remove the names of inner tensors, which are not needed to access inputs and outputs."""
    ends = {int(index) for index in (*items(subgraph.inputs), *items(subgraph.outputs))}
    for index, tensor in enumerate(items(subgraph.tensors)):
        if index not in ends:
            tensor.name = None


def _drop_empty_buffers(model: Any) -> None:
    """Let all tensors without values share buffer 0, which converters leave empty, and renumber the other buffers."""
    if model.buffers[0].data is not None:
        return
    kept = [0, *(number for number, buffer in enumerate(model.buffers) if number and buffer.data is not None)]
    places = {old: new for new, old in enumerate(kept)}
    owners = [tensor for subgraph in model.subgraphs for tensor in items(subgraph.tensors)]
    for owner in (*owners, *model.metadata):
        owner.buffer = places.get(owner.buffer, 0)
    model.metadataBuffer = [places.get(int(number), 0) for number in items(model.metadataBuffer)] or None
    model.buffers = [model.buffers[number] for number in kept]
