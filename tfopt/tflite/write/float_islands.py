"""Keep chosen operators of a file with int16 activations in float, which TensorFlow's quantizer cannot.

A chosen operator gets its float form back, with its float constants, between a DEQUANTIZE and a QUANTIZE. Between two
such operators, and at float inputs and outputs, these two drop out.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import (
    added_buffer,
    drop_unused_codes,
    items,
    kind_of,
    new_operator,
    packed,
    stored,
    unpacked,
)
from tfopt.tflite.write.float_forms import added_like


def with_float_islands(quantized: bytes, reference: bytes, outputs: Collection[str]) -> bytes:
    """Return the int16 file with the operators that compute `outputs` in float.

    Args:
        quantized: the file.
        reference: the float file that was quantized.
        outputs: names of tensors in both.
    """
    model, floats = unpacked(quantized), unpacked(reference)
    subgraph = model.subgraphs[0]
    _Islands(model, subgraph, floats).add(set(outputs))
    while _without_rounding_between(model, subgraph):
        pass
    _drop_unread_constants(model, subgraph)
    drop_unused_codes(model)
    return packed(model, len(quantized))


def outputs_without_scale(quantized: bytes) -> list[str]:
    """Return the results of operators with a constant whose scale is infinite, by tensor name.

    Their input was 0 in all samples, as behind a layer whose units are all dead.
    """
    model = unpacked(quantized)
    subgraph = model.subgraphs[0]
    tensors = list(items(subgraph.tensors))
    lost = {number for number, tensor in enumerate(tensors) if not np.isfinite(_scales(tensor)).all()}
    reading = [
        operator for operator in items(subgraph.operators) if lost.intersection(map(int, items(operator.inputs)))
    ]
    return [_name(tensors[int(operator.outputs[0])]) for operator in reading]


def _scales(tensor: Any) -> np.ndarray:
    return np.asarray(items(tensor.quantization.scale) if tensor.quantization else (), np.float64)


def outputs_without_int16(quantized: bytes) -> list[str]:
    """Return the results of operators that read int16 in the file, though LiteRT has no such kernel, by tensor name."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(quantized)
    subgraph = model.subgraphs[0]
    reading = [each for each in items(subgraph.operators) if _kind(model, each) == schema.BuiltinOperator.BUCKETIZE]
    return [_name(subgraph.tensors[int(each.outputs[0])]) for each in reading]


class _Islands:
    def __init__(self, model: Any, subgraph: Any, floats: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._subgraph, self._floats, self._schema = model, subgraph, floats, schema
        self._float_tensors = floats.subgraphs[0].tensors
        self._by_output = {
            _name(self._float_tensors[int(operator.outputs[0])]): operator
            for operator in items(floats.subgraphs[0].operators)
        }
        self._in_float: dict[int, int] = {}  # the float values of an int16 tensor

    def add(self, outputs: set[str]) -> None:
        operators: list[Any] = []
        for operator in items(self._subgraph.operators):
            name = _name(self._subgraph.tensors[int(operator.outputs[0])])
            chosen = self._by_output.get(name) if name in outputs else None
            same = chosen is not None and _kind(self._model, operator) == _kind(self._floats, chosen)
            operators += self._island(operator, chosen) if same else [operator]
        self._subgraph.operators = operators

    def _island(self, operator: Any, in_float: Any) -> list[Any]:
        """Return operators that compute in float what `operator` computes, as `in_float` does."""
        before: list[Any] = []
        ends = list(map(int, items(operator.inputs)))
        ends += [-1] * (len(in_float.inputs) - len(ends))
        inputs = [self._input(int(own), end, before) for own, end in zip(in_float.inputs, ends, strict=False)]
        outputs, after = [], []
        for output in map(int, items(operator.outputs)):
            made = output
            if self._subgraph.tensors[output].type == self._schema.TensorType.INT16:
                made = self._float_like(output)
                self._in_float[output] = made
                after.append(new_operator(self._model, self._schema.BuiltinOperator.QUANTIZE, [made], [output]))
            outputs.append(made)
        version = self._floats.operatorCodes[in_float.opcodeIndex].version
        kind = _kind(self._floats, in_float)
        island = new_operator(self._model, kind, inputs, outputs, in_float.builtinOptions, version)
        return [*before, island, *after]

    def _input(self, own: int, end: int, before: list[Any]) -> int:
        """Return the tensor for an input: a float constant, or the values of `end`, by an operator in `before`."""
        values = None if own < 0 else stored(self._floats, self._float_tensors[own])
        if values is not None:
            return self._constant(self._float_tensors[own], values)
        if end < 0 or self._subgraph.tensors[end].type != self._schema.TensorType.INT16:
            return end
        if end not in self._in_float:
            self._in_float[end] = self._float_like(end)
            kind = self._schema.BuiltinOperator.DEQUANTIZE
            before.append(new_operator(self._model, kind, [end], [self._in_float[end]], version=2))
        return self._in_float[end]

    def _float_like(self, tensor: int) -> int:
        wide = self._subgraph.tensors[tensor]
        made = added_like(self._subgraph, wide, tuple(items(wide.shape)))
        self._subgraph.tensors[made].type = self._schema.TensorType.FLOAT32
        self._subgraph.tensors[made].shapeSignature = wide.shapeSignature
        return made

    def _constant(self, tensor: Any, values: np.ndarray) -> int:
        made = added_like(self._subgraph, tensor, tuple(items(tensor.shape)))
        self._subgraph.tensors[made].buffer = added_buffer(self._model, values)
        return made


def _without_rounding_between(model: Any, subgraph: Any) -> bool:
    """Read float values instead of their int16 ones brought back to float; return whether there were any."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    sources: dict[int, int] = {}  # the float values of an int16 tensor
    for operator in items(subgraph.operators):
        if _kind(model, operator) == kinds.QUANTIZE:
            source = int(operator.inputs[0])
            if source in sources or subgraph.tensors[source].type == schema.TensorType.FLOAT32:
                sources[int(operator.outputs[0])] = sources.get(source, source)
    moved: dict[int, int] = {}
    kept: list[Any] = []
    ends = set(map(int, subgraph.outputs))
    fixed = ends.union(map(int, subgraph.inputs))
    for operator in items(subgraph.operators):
        back = _kind(model, operator) == kinds.DEQUANTIZE
        values = sources.get(int(operator.inputs[0])) if back else None
        if values is None:
            kept.append(operator)
        elif int(operator.outputs[0]) not in ends:
            moved[int(operator.outputs[0])] = values
        elif values in fixed or values in moved:
            kept.append(operator)  # an input that is an output as well, or an output under two names
        else:
            moved[values] = int(operator.outputs[0])
    for operator in kept:
        operator.inputs = np.array([_end(moved, int(index)) for index in items(operator.inputs)], np.int32)
        operator.outputs = np.array([moved.get(int(index), int(index)) for index in operator.outputs], np.int32)
    read = {int(index) for operator in kept for index in operator.inputs} | ends
    unread = [one for one in kept if not read.intersection(map(int, one.outputs)) and int(one.outputs[0]) in sources]
    subgraph.operators = [operator for operator in kept if operator not in unread]
    return bool(moved or unread)


def _end(moved: dict[int, int], index: int) -> int:
    while index in moved:
        index = moved[index]
    return index


def _drop_unread_constants(model: Any, subgraph: Any) -> None:
    read = {int(index) for operator in items(subgraph.operators) for index in items(operator.inputs)}
    for index, tensor in enumerate(subgraph.tensors):
        if index not in read and stored(model, tensor) is not None:
            old, tensor.buffer = tensor.buffer, 0
            if not any(other.buffer == old for each in model.subgraphs for other in each.tensors):
                model.buffers[old].data = None


def _kind(model: Any, operator: Any) -> int:
    return kind_of(model.operatorCodes[operator.opcodeIndex])


def _name(tensor: Any) -> str:
    """Return the name of a tensor in the float file; TensorFlow renames inputs and outputs."""
    return (tensor.name or b"").decode().removesuffix("_int16")
