"""The tensors, ops and weights of a .tflite, read from its flatbuffer, before any delegate changes the graph."""

import math
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfopt.base.reading import reading
from tfopt.errors import ModelError
from tfopt.tflite.read.check import UNPACKING, check_indices, check_order, check_sizes
from tfopt.tflite.read.decode import decoded, densified
from tfopt.tflite.read.parts import Op, Port, Tensor, Weight

FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})
_INTEGERS = frozenset({"int16", "int32", "int64", "uint32"})

# op -> (operands that are weights, their axis of output channels, None if the layout does not fix one)
WEIGHT_OPERANDS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "CONV_2D": ((1,), 0),  # OHWI
    "DEPTHWISE_CONV_2D": ((1,), 3),  # 1HWC
    "TRANSPOSE_CONV": ((1,), 0),  # OHWI
    "CONV_3D": ((1,), 4),  # DHWIO
    "CONV_3D_TRANSPOSE": ((1,), 3),  # DHWOI
    "FULLY_CONNECTED": ((1,), 0),  # OI
    "BATCH_MATMUL": ((0, 1), None),
    "EMBEDDING_LOOKUP": ((1,), -1),
    "GATHER": ((0,), -1),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (tuple(range(1, 9)), 0),
}


# Options that depend on the precision of a file.
_NOT_SETTINGS = frozenset({"fusedActivationFunction", "asymmetricQuantizeInputs", "weightsFormat", "quantizedBiasType"})


class FileGraph:
    """The graph of a .tflite file, with all its subgraphs.

    Args:
        data: the bytes of a file that LiteRT has verified.

    Raises:
        ModelError: an index is out of range, or tensors need more memory than `limits.LARGEST_TENSORS`.
    """

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._data = data
        with reading(_damaged):
            self.model = schema.ModelT.InitFromPackedBuf(data, 0)
            check_indices(self.model)
            check_order(self.ops)
            check_sizes([tensor for subgraph in self.tensors for tensor in subgraph])

    @cached_property
    def tensors(self) -> tuple[tuple[Tensor, ...], ...]:
        """All tensors: `tensors[subgraph][index]`."""
        return tuple(
            tuple(self._tensor(number, index, raw) for index, raw in enumerate(_items(subgraph.tensors)))
            for number, subgraph in enumerate(self.model.subgraphs)
        )

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """All operations, subgraph by subgraph, in the order in which they run."""
        codes = [_op_name(code) for code in _items(self.model.operatorCodes)]
        return tuple(
            Op(index, codes[raw.opcodeIndex], _ints(raw.inputs), _ints(raw.outputs), number)
            for number, subgraph in enumerate(self.model.subgraphs)
            for index, raw in enumerate(_items(subgraph.operators))
        )

    def ports(self, side: Literal["inputs", "outputs"]) -> tuple[Port, ...]:
        """Return the inputs or outputs of the first subgraph, named and sorted as in its signature."""
        indices = _ints(getattr(self.model.subgraphs[0], side))
        names = [(self.tensors[0][index].name, index) for index in indices]
        for signature in _items(self.model.signatureDefs):
            signed = [(_text(entry.name), int(entry.tensorIndex)) for entry in _items(getattr(signature, side))]
            if signature.subgraphIndex == 0 and {index for _, index in signed} == set(indices):
                names = signed
                break
        return tuple(self._port(name, index) for name, index in names)

    def _port(self, name: str, index: int) -> Port:
        tensor, raw = self.tensors[0][index], self.model.subgraphs[0].tensors[index]
        signature = _ints(raw.shapeSignature) or tensor.shape
        shape = tuple(None if axis < 0 else axis for axis in signature)
        return Port(name, index, shape, tensor.dtype, tensor.scales, tensor.zero_points)

    def values(self, tensor: Tensor) -> NDArray[Any]:
        """Return the stored values of a constant in its shape, read-only; integers below 8 bits as int8 or uint8.

        Raises:
            ModelError: the tensor is not a constant, or does not hold plain numbers.
        """
        raw = self._raw(tensor)
        stored = self._buffer(raw.buffer)
        if stored is None or not tensor.constant:
            raise ModelError(f"The tensor {tensor.name!r} is computed at run time; it has no stored values.")
        if raw.quantization is not None and raw.quantization.details is not None:
            raise ModelError(f"The tensor {tensor.name!r} is quantized in blocks, which is not supported.")
        count = math.prod(tensor.shape)
        try:
            flat = decoded(stored, tensor.dtype, count)
        except TypeError as error:
            raise ModelError(f"The tensor {tensor.name!r} holds {tensor.dtype}, not numbers.") from error
        except ValueError as error:
            raise _damaged(f"tensor {tensor.name!r}: {error}") from error
        with reading(lambda why: _damaged(f"tensor {tensor.name!r}: {why}")):
            return flat.reshape(tensor.shape) if raw.sparsity is None else densified(flat, raw.sparsity, tensor.shape)

    def weights(self) -> list[Weight]:
        """Return the weights of the ops in `WEIGHT_OPERANDS`, each stored constant once.

        This includes weights that reach their op through DEQUANTIZE (as in float16 files).
        """
        uses: dict[int, list[tuple[Tensor, Op, int | None]]] = {}
        for op, operand, axis in self._weight_operands():
            tensor = self._unpacked(op.subgraph, operand)
            if tensor is None or not (tensor.dtype in FLOATS or tensor.scales):
                continue
            # Several subgraphs (one per signature) may use the same buffer; it counts as one weight.
            uses.setdefault(self._raw(tensor).buffer, []).append((tensor, op, axis))
        return [self._weight(*used[0], tuple(op for _, op, _ in used)) for used in uses.values()]

    def float_tensors(self) -> list[str]:
        """Return the names of the float tensors that ops read or write, in order; none means integers everywhere.

        QUANTIZE of an input of the model and DEQUANTIZE to an output do not count. Every other op on a float tensor
        computes in float.
        """
        names: dict[str, None] = {}
        for op in self.ops:
            tensors = self.tensors[op.subgraph]
            touched = [tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0]
            border = self._border(op)
            names.update({t.name: None for t in touched if t.dtype in FLOATS and t.index not in border})
        return list(names)

    def activation(self, op: Op) -> str:
        """Return the activation that is fused into `op`, e.g. "RELU"; "" if there is none."""
        number = getattr(self._raw_op(op).builtinOptions, "fusedActivationFunction", 0) or 0
        return _activations()[number] if number else ""

    def options(self, op: Op) -> dict[str, Any]:
        """Return the options of `op` as the schema names them."""
        return dict(vars(self._raw_op(op).builtinOptions)) if self._raw_op(op).builtinOptions else {}

    def settings(self, op: Op) -> dict[str, Any]:
        """Return the settings of `op` other than its activation: its options and its small integer constants."""
        options = self.options(op).items()
        found = {name: value for name, value in options if np.isscalar(value) and name not in _NOT_SETTINGS}
        for place, index in enumerate(op.inputs):
            tensor = self.tensors[op.subgraph][index] if index >= 0 else None
            if tensor and tensor.constant and tensor.dtype in _INTEGERS and not tensor.scales and tensor.bytes < 256:
                found[str(place)] = self.values(tensor).tolist()
        return found

    def _raw_op(self, op: Op) -> Any:
        return self.model.subgraphs[op.subgraph].operators[op.index]

    def _border(self, op: Op) -> set[int]:
        subgraph = self.model.subgraphs[op.subgraph]
        if op.name == "QUANTIZE":
            return set(op.inputs) & set(_ints(subgraph.inputs))
        if op.name == "DEQUANTIZE":
            return set(op.outputs) & set(_ints(subgraph.outputs))
        return set()

    def _weight_operands(self) -> Iterator[tuple[Op, int, int | None]]:
        for op in self.ops:
            operands, axis = WEIGHT_OPERANDS.get(op.name, ((), None))
            for position in operands:
                if position < len(op.inputs) and op.inputs[position] >= 0:
                    yield op, op.inputs[position], axis

    def _unpacked(self, subgraph: int, index: int) -> Tensor | None:
        """Return the constant at `index`, or the one from which it is unpacked; None if it is computed."""
        tensor = self.tensors[subgraph][index]
        while not tensor.constant:
            maker = self._makers.get((subgraph, tensor.index))
            if maker is None or maker.name not in UNPACKING:
                return None
            tensor = self.tensors[subgraph][maker.inputs[0]]
        return tensor

    @cached_property
    def _makers(self) -> dict[tuple[int, int], Op]:
        return {(op.subgraph, output): op for op in self.ops for output in op.outputs}

    def _weight(self, tensor: Tensor, op: Op, axis: int | None, readers: tuple[Op, ...]) -> Weight:
        values = self.values(tensor)
        if axis is None:
            axis = tensor.quantized_axis
        elif axis < 0:
            axis += len(tensor.shape)
        return Weight(tensor, op.name, values, self._dequantized(tensor, values), axis, readers)

    def _dequantized(self, tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return scale * (value - zero_point), in float32."""
        if not tensor.scales:
            return values.astype(np.float32)
        with reading(lambda why: _damaged(f"scales of tensor {tensor.name!r}: {why}")):
            shape = [1] * values.ndim
            if tensor.quantized_axis is not None:
                shape[tensor.quantized_axis] = -1
            scales = np.array(tensor.scales, np.float32).reshape(shape)
            zero_points = np.array(tensor.zero_points, np.float32).reshape(shape)
            dequantized: NDArray[np.float32] = (values.astype(np.float32) - zero_points) * scales
            if dequantized.shape != values.shape:
                raise ValueError(f"{len(tensor.scales)} for the shape {tensor.shape}")
            return dequantized

    def _tensor(self, subgraph: int, index: int, raw: Any) -> Tensor:
        details = raw.quantization
        scales = tuple(float(scale) for scale in _items(details.scale if details else None))
        zero_points = _ints(details.zeroPoint if details else None) or (0,) * len(scales)
        stored = self._buffer(raw.buffer)
        return Tensor(
            index=index,
            name=_text(raw.name) or f"tensor_{index}",
            shape=_ints(raw.shape),
            dtype=_dtypes()[raw.type],
            scales=scales,
            zero_points=zero_points,
            quantized_axis=int(details.quantizedDimension) if len(scales) > 1 else None,
            constant=stored is not None and not raw.isVariable,
            bytes=0 if stored is None else len(stored),
            subgraph=subgraph,
            sparse=raw.sparsity is not None,
        )

    def _raw(self, tensor: Tensor) -> Any:
        return self.model.subgraphs[tensor.subgraph].tensors[tensor.index]

    def _buffer(self, index: int) -> NDArray[np.uint8] | None:
        """Return the stored bytes of a buffer without copying; None if it has none, like that of a computed tensor."""
        buffer = self.model.buffers[index]
        if buffer.offset > 1:  # files above 2 GB store their buffers after the flatbuffer
            return np.frombuffer(self._data, np.uint8, buffer.size, buffer.offset)
        return None if buffer.data is None or len(buffer.data) == 0 else buffer.data


@cache
def _dtypes() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import TensorType

    return {value: name.lower() for name, value in vars(TensorType).items() if name.isupper()}


@cache
def _activations() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import ActivationFunctionType

    return {value: name for name, value in vars(ActivationFunctionType).items() if name.isupper()}


@cache
def builtin_names() -> dict[int, str]:
    """Return the names of LiteRT's operators by number."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {value: name for name, value in vars(BuiltinOperator).items() if name.isupper()}


def _op_name(code: Any) -> str:
    """Return an op's name; old files store its number in a one-byte field, new ones in both fields."""
    if code.customCode:
        return _text(code.customCode)
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return builtin_names().get(number, f"BUILTIN_{number}")


def _damaged(why: str) -> ModelError:
    return ModelError(f"It is damaged ({why}); export it again.")


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def _items(vector: Any) -> Any:
    """Return a vector of the schema; the schema uses None for an empty one."""
    return () if vector is None else vector


def _ints(vector: Any) -> tuple[int, ...]:
    return tuple(int(item) for item in _items(vector))
