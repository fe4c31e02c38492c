"""Rewrite a .tflite without the bytes and operators that running it does not need."""

import copy
import io
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from tfopt.errors import ModelError

# `force_align: 16` stands on buffers in the schema; its Python code ignores it, kernels may rely on it.
ALIGNMENT = 16

# Written by the converter for those who debug it; nothing reads it to run the model.
DEBUG_METADATA = frozenset({b"CONVERSION_METADATA"})


def compact(data: bytes, *, names: bool = False) -> bytes:
    """Return a .tflite that computes the same, bit for bit, in fewer bytes.

    Dropped: names of tensors inside the graph (`names=True` keeps them), the calibration ranges (min, max) of
    quantized tensors, debug metadata, empty buffers. Equal vectors and strings are stored once. Kept: names
    of inputs and outputs, signatures, all other metadata, every number that a kernel reads, aligned buffers.
    Raises ModelError when `data` is not a .tflite, or holds parts that a rewrite would lose: buffers or
    options outside of the flatbuffer (files above 2 GB), or an appended archive of associated files.
    """
    model = _unpacked(data)
    model.metadata = [entry for entry in _items(model.metadata) if entry.name not in DEBUG_METADATA]
    for subgraph in model.subgraphs:
        if not names:
            _drop_names(subgraph)
        for tensor in _items(subgraph.tensors):
            if tensor.quantization is not None:
                tensor.quantization.min = tensor.quantization.max = None
    _drop_empty_buffers(model)
    return _packed(model, len(data))


def without_detours(data: bytes) -> bytes:
    """Return a .tflite without detours through float: DEQUANTIZE followed by nothing but QUANTIZE.

    The converter leaves them where two scales that it was given differ, by a rounding error for example. Where
    all the difference is a rounding error (1e-5 of the scale), both operators go, and no integer changes; else a
    single QUANTIZE goes from the one scale to the other. Raises ModelError as `compact` does.
    """
    model = _unpacked(data)
    found = [_straightened(model, subgraph) for subgraph in model.subgraphs]
    return _packed(model, len(data)) if any(found) else data


def _straightened(model: Any, subgraph: Any) -> bool:
    """Take the detours out of one subgraph, in place; whether there were any."""
    from ai_edge_litert import schema_py_generated as schema

    operators = list(_items(subgraph.operators))
    kinds = [_kind(model.operatorCodes[operator.opcodeIndex]) for operator in operators]
    consumers: dict[int, list[int]] = {}
    for number, operator in enumerate(operators):
        for index in _items(operator.inputs):
            consumers.setdefault(int(index), []).append(number)
    outputs = {int(index) for index in _items(subgraph.outputs)}
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


def with_true_reversals(data: bytes) -> bytes:
    """Return a .tflite whose REVERSE_V2 operators mean what they say.

    Their kernel moves integers as they are, but the converter gives the output another scale than the input where
    a Concatenate behind asks for it (Bidirectional with return_sequences): every number is then off by the ratio.
    Here a QUANTIZE in front goes from the one scale to the other. Raises ModelError as `compact` does.
    """
    model = _unpacked(data)
    found = [_rescaled_reversals(model, subgraph) for subgraph in model.subgraphs]
    return _packed(model, len(data)) if any(found) else data


def _rescaled_reversals(model: Any, subgraph: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    operators: list[Any] = []
    for operator in _items(subgraph.operators):
        kind = _kind(model.operatorCodes[operator.opcodeIndex])
        if kind == schema.BuiltinOperator.REVERSE_V2:
            source, target = (subgraph.tensors[int(ends[0])] for ends in (operator.inputs, operator.outputs))
            quantized = source.quantization is not None and source.quantization.scale is not None
            if quantized and not _same_scale(source, target):
                between = copy.copy(source)
                between.name = (source.name or b"") + b"_rescaled"
                between.quantization = target.quantization
                subgraph.tensors.append(between)
                rescale = schema.OperatorT()
                rescale.opcodeIndex = _operator_code(model, schema.BuiltinOperator.QUANTIZE)
                rescale.inputs = np.array([operator.inputs[0]], np.int32)
                rescale.outputs = np.array([len(subgraph.tensors) - 1], np.int32)
                operator.inputs = np.array([len(subgraph.tensors) - 1, *operator.inputs[1:]], np.int32)
                operators.append(rescale)
        operators.append(operator)
    changed = len(operators) > len(_items(subgraph.operators))
    subgraph.operators = operators
    return changed


def _operator_code(model: Any, kind: int) -> int:
    """The index of the operator code for the builtin operator `kind`, which is added where the file has none."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if _kind(code) == kind:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind  # below 127, where older readers look
    code.version = 2  # int8 to int8
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _kind(code: Any) -> int:
    """The builtin operator of an operator code, in either of the two places where files say it."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _same_scale(a: Any, b: Any) -> bool:
    one, other = a.quantization, b.quantization
    return (
        a.type == b.type
        and np.array_equal(_items(one.zeroPoint), _items(other.zeroPoint))
        and np.allclose(_items(one.scale), _items(other.scale), rtol=1e-5, atol=0.0)
    )


def _unpacked(data: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ModelError(f"Not a .tflite: bytes 4 to 8 must be b'TFL3'; they are {data[4:8]!r}.")
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    if _has_parts_outside(model) or zipfile.is_zipfile(io.BytesIO(data)):
        raise ModelError("The .tflite has parts outside of its flatbuffer, which a rewrite would lose.")
    return model


def _packed(model: Any, size: int) -> bytes:
    builder = _Builder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """Writes a flatbuffer in which equal vectors and strings share one place and byte vectors are aligned."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._vectors: dict[tuple[str, bytes], int] = {}
        self._strings: dict[str | bytes, int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
        content = np.ascontiguousarray(x).astype(x.dtype.newbyteorder("<"), copy=False).tobytes()
        key = (x.dtype.str, content)
        if key not in self._vectors:
            self.StartVector(x.itemsize, x.size, ALIGNMENT if x.dtype == np.uint8 else x.itemsize)
            self.head -= len(content)
            self.Bytes[self.head : self.head + len(content)] = content
            self._vectors[key] = self.EndVector()
        return self._vectors[key]

    def CreateString(self, s: str | bytes, *encoding: str) -> int:  # noqa: N802
        if s not in self._strings:
            self._strings[s] = super().CreateString(s, *encoding)
        return self._strings[s]


def _drop_names(subgraph: Any) -> None:
    """Remove the names of tensors that are no input or output, by which nobody can ask for them."""
    ends = {int(index) for index in (*_items(subgraph.inputs), *_items(subgraph.outputs))}
    for index, tensor in enumerate(_items(subgraph.tensors)):
        if index not in ends:
            tensor.name = None


def _drop_empty_buffers(model: Any) -> None:
    """Let all tensors without values share buffer 0, which converters keep empty; number the others anew."""
    if model.buffers[0].data is not None:
        return
    kept = [0, *(number for number, buffer in enumerate(model.buffers) if number and buffer.data is not None)]
    places = {old: new for new, old in enumerate(kept)}
    owners = [tensor for subgraph in model.subgraphs for tensor in _items(subgraph.tensors)]
    for owner in (*owners, *model.metadata):
        owner.buffer = places.get(owner.buffer, 0)
    model.metadataBuffer = [places.get(int(number), 0) for number in _items(model.metadataBuffer)] or None
    model.buffers = [model.buffers[number] for number in kept]


def _has_parts_outside(model: Any) -> bool:
    operators = [op for subgraph in model.subgraphs for op in _items(subgraph.operators)]
    return (
        any(buffer.offset > 1 for buffer in model.buffers)
        or any(op.largeCustomOptionsOffset > 1 for op in operators)
        or bool(_items(model.externalBuffers))
    )


def _items(vector: Any) -> Any:
    return () if vector is None else vector
