"""Unpack the flatbuffer of a .tflite into mutable objects, and pack them again."""

import io
import zipfile
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from tfopt.base.reading import reading
from tfopt.errors import ModelError

# The schema has `force_align: 16` on buffers; its Python code ignores this, but kernels may rely on it.
ALIGNMENT = 16
# The offsets inside a flatbuffer are signed 32-bit numbers.
LARGEST = 2**31 - 1
BIAS_OPERAND = {"CONV_2D": 2, "CONV_3D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""The operators that add a bias, and which of their operands it is."""


def unpacked(data: bytes) -> Any:
    """Return the file as a `ModelT` of the schema.

    Raises:
        ModelError: `data` is not a .tflite, or has parts that a rewrite would lose: options outside the flatbuffer, or
            an appended archive of associated files; or it is too large for a flatbuffer (2 GB).
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ModelError(f"Not a .tflite: bytes 4 to 8 must be b'TFL3'; they are {data[4:8]!r}.")
    with reading(lambda why: ModelError(f"The .tflite is damaged ({why}); export it again.")):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
    _bring_buffers_in(model, data)
    if _has_parts_outside(model) or zipfile.is_zipfile(io.BytesIO(data)):
        raise ModelError("The .tflite has parts outside its flatbuffer, which a rewrite would lose.")
    return model


def has_operator(data: bytes, name: str) -> bool:
    """Return whether a .tflite may have operators called `name`, such as "CAST"; it is not unpacked for that."""
    from ai_edge_litert import schema_py_generated as schema

    with reading(lambda why: ModelError(f"The .tflite is damaged ({why}); export it again.")):
        model = schema.Model.GetRootAs(data, 0)
        codes = [model.OperatorCodes(number) for number in range(model.OperatorCodesLength())]
        kind = getattr(schema.BuiltinOperator, name)
        return any(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == kind for code in codes)


def rewritten(data: bytes, *changes: Callable[[Any, Any], bool]) -> bytes:
    """Apply `changes`, one after the other, to every subgraph of a .tflite.

    Args:
        data: the file.
        *changes: functions of (model, subgraph) that change the subgraph in place and return whether they did.

    Returns:
        The new file, or `data` if nothing changed.

    Raises:
        ModelError: as in `unpacked`.
    """
    model = unpacked(data)
    changed = [change(model, subgraph) for change in changes for subgraph in model.subgraphs]
    return packed(model, len(data)) if any(changed) else data


def packed(model: Any, size: int) -> bytes:
    """Return the bytes of a `ModelT`; `size` is the initial size of the builder's buffer."""
    builder = _Builder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """A builder that stores equal vectors and strings once and aligns byte vectors."""

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


def operator_code(model: Any, kind: int, version: int) -> int:
    """Return the index of the operator code for the builtin operator `kind`; add it with `version` if missing."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if kind_of(code) == kind:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind  # below 127; older readers look in the deprecated field
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def stored(model: Any, tensor: Any) -> NDArray[np.uint8] | None:
    """Return the bytes of a constant tensor; None for any other tensor."""
    data = model.buffers[tensor.buffer].data
    return np.asarray(data, np.uint8) if data is not None and len(data) else None


def set_data(model: Any, tensor: Any, data: np.ndarray) -> None:
    """Store `data` for `tensor` in a new buffer; equal constants may have shared the old one."""
    from ai_edge_litert import schema_py_generated as schema

    old = tensor.buffer
    tensor.buffer = len(model.buffers)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.ascontiguousarray(data)
    if not any(t.buffer == old for subgraph in model.subgraphs for t in subgraph.tensors):
        model.buffers[old].data = None


def new_operator(
    model: Any, kind: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, version: int = 1
) -> Any:
    """Return an operator to insert into a subgraph.

    Args:
        model: gets the operator's code.
        kind: the builtin operator.
        inputs: indices of tensors.
        outputs: indices of tensors.
        options: the operator's options, e.g. a `MulOptionsT`.
        version: of the code, if the model does not have it yet.
    """
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, kind, version)
    operator.inputs, operator.outputs = (np.array(ends, np.int32) for ends in (inputs, outputs))
    if options is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
    return operator


def added_buffer(model: Any, values: np.ndarray) -> int:
    """Add a buffer with the bytes of `values` to the model, and return its index."""
    from ai_edge_litert import schema_py_generated as schema

    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
    return len(model.buffers) - 1


def drop_unused_codes(model: Any) -> None:
    """Remove operator codes that no operator has: TensorFlow's calibrator does not open a file with such."""
    operators = [operator for subgraph in model.subgraphs for operator in items(subgraph.operators)]
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def drop_unread(model: Any, subgraph: Any, kinds: Collection[str]) -> None:
    """Remove the operators of these kinds from a subgraph whose first output nothing reads, until none is left."""
    from ai_edge_litert import schema_py_generated as schema

    numbers = {getattr(schema.BuiltinOperator, kind) for kind in kinds}
    while True:
        operators = list(items(subgraph.operators))
        read = {int(end) for each in operators for end in items(each.inputs)} | set(map(int, items(subgraph.outputs)))
        kept = [
            each
            for each in operators
            if kind_of(model.operatorCodes[each.opcodeIndex]) not in numbers or int(each.outputs[0]) in read
        ]
        subgraph.operators = kept
        if len(kept) == len(operators):
            return


def kind_of(code: Any) -> int:
    """Return the builtin operator of an operator code, from whichever of its two fields the file uses."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _bring_buffers_in(model: Any, data: bytes) -> None:
    """Read the buffers that stand after the flatbuffer, as large ones do in files of litert-quantizer."""
    for buffer in model.buffers:
        if buffer.offset > 1:
            if len(data) > LARGEST or buffer.offset + buffer.size > len(data):
                raise ModelError("The .tflite is damaged, or too large to be rewritten: its weights lie outside of it.")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0


def _has_parts_outside(model: Any) -> bool:
    operators = [op for subgraph in model.subgraphs for op in items(subgraph.operators)]
    return any(op.largeCustomOptionsOffset > 1 for op in operators) or bool(items(model.externalBuffers))


def items(vector: Any) -> Any:
    """Return a vector of the schema; the schema uses None for an empty one."""
    return () if vector is None else vector
