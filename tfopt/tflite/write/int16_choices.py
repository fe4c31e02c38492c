"""Prepare comparisons, choices and masks for int16 activations, for which TensorFlow has no operators.

A comparison becomes whether a difference is not 0, a choice a sum of products with 1 or 0, which the bool looks up in a
table. Integers and bools stay as they are.
"""

import re
from typing import Any

import numpy as np
from typing_extensions import override

from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import drop_unused_codes, items, kind_of, new_operator, set_data, stored
from tfopt.tflite.write.float_forms import added_like
from tfopt.tflite.write.replacements import Replacements

COMPARISONS = ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")


def with_int16_choices(model: Any, subgraph: Any) -> bool:
    """Compare differences of floats with 0, and choose by products with 1 and 0. For `rewritten`."""
    return _Choices(model, subgraph).made()


def with_ranges_of_integers(model: Any, subgraph: Any) -> bool:
    """Give integers and bools a range: TensorFlow asks for it, but does not use it. For `rewritten`."""
    from ai_edge_litert import schema_py_generated as schema

    for tensor in subgraph.tensors:
        if tensor.type != schema.TensorType.FLOAT32 and stored(model, tensor) is None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.min, tensor.quantization.max = (np.array([end], np.float32) for end in (0, 1))
    return True


def with_int16_casts(model: Any, subgraph: Any) -> bool:
    """Cast int16 values to bool directly, instead of their floats. For `rewritten`, after quantization."""
    from ai_edge_litert import schema_py_generated as schema

    kinds, types = schema.BuiltinOperator, schema.TensorType
    sources = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in items(subgraph.operators)
        if kind_of(model.operatorCodes[operator.opcodeIndex]) == kinds.DEQUANTIZE
    }
    freed = set[int]()
    for operator in items(subgraph.operators):
        value, target = int(operator.inputs[0]), int(operator.outputs[0])
        is_cast = kind_of(model.operatorCodes[operator.opcodeIndex]) == kinds.CAST
        if is_cast and value in sources and subgraph.tensors[target].type == types.BOOL:
            freed.add(value)
            operator.inputs = np.array([sources[value]], np.int32)
            operator.builtinOptions.inDataType = types.INT16
    read = {int(index) for operator in items(subgraph.operators) for index in operator.inputs}
    unread = freed - read - set(map(int, subgraph.outputs))
    subgraph.operators = [one for one in items(subgraph.operators) if int(one.outputs[0]) not in unread]
    drop_unused_codes(model)
    return bool(freed)


def with_int8_tables(model: Any, subgraph: Any) -> bool:
    """Read rows from int8 tables, and rescale them to int16. For `rewritten`, after quantization.

    TensorFlow stores the tables in int16, because they have the type of what is looked up.
    """
    from ai_edge_litert import schema_py_generated as schema

    def reads_table(operator: Any) -> bool:
        is_gather = kind_of(model.operatorCodes[operator.opcodeIndex]) == schema.BuiltinOperator.GATHER
        return is_gather and _is_wide_table(model, subgraph.tensors[int(operator.inputs[0])])

    before = list(items(subgraph.operators))
    lookups = [operator for operator in before if reads_table(operator)]
    read_otherwise = {
        int(index)
        for operator in before
        for index in (operator.inputs[1:] if operator in lookups else items(operator.inputs))
    }
    narrow: dict[int, int] = {}  # by the index of the wide table
    operators: list[Any] = []
    for operator in before:
        operators.append(operator)
        if operator in lookups:
            table = int(operator.inputs[0])
            if table not in narrow:
                narrow[table] = _narrowed(model, subgraph, table, copied=table in read_otherwise)
            operators.append(_rescaling(model, subgraph, operator, narrow[table]))
    subgraph.operators = operators
    return bool(lookups)


def _is_wide_table(model: Any, tensor: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    return tensor.type == schema.TensorType.INT16 and stored(model, tensor) is not None


def _narrowed(model: Any, subgraph: Any, table: int, *, copied: bool) -> int:
    """Store an int16 constant, or a copy of it, in int8 with nearly the same values; return the index of its tensor."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = subgraph.tensors[table]
    values = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.int16)
    scale = float(tensor.quantization.scale[0])
    step = max(float(np.abs(values.astype(np.int32)).max()) / 127, 1.0)  # of the narrow one, in wide steps
    if copied:
        table = added_like(subgraph, tensor, tuple(tensor.shape))
        tensor = subgraph.tensors[table]
    tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
    tensor.quantization.scale = np.array([scale * step], np.float32)
    tensor.quantization.zeroPoint = np.array([0], np.int64)
    set_data(model, tensor, np.rint(values / step).astype(np.int8).view(np.uint8))
    return table


def _rescaling(model: Any, subgraph: Any, lookup: Any, table: int) -> Any:
    """Let `lookup` read the int8 `table`, and return the operator that makes its rows int16."""
    from ai_edge_litert import schema_py_generated as schema

    output = int(lookup.outputs[0])
    wide = subgraph.tensors[output]
    index = added_like(subgraph, wide, tuple(wide.shape))
    rows = subgraph.tensors[index]
    rows.type, rows.quantization = schema.TensorType.INT8, subgraph.tensors[table].quantization
    rows.shapeSignature = wide.shapeSignature
    lookup.inputs, lookup.outputs = np.array([table, lookup.inputs[1]], np.int32), np.array([index], np.int32)
    return new_operator(model, schema.BuiltinOperator.QUANTIZE, [index], [output], version=2)


def is_about_integers(data: bytes, refusal: str) -> bool:
    """Return whether TensorFlow refuses int16 only for operators of the float .tflite `data` without float values."""
    refused = set(re.findall(r"not yet supported for op: '(\w+)'", refusal))
    lite = LiteModel(data)
    dtypes = {(tensor.subgraph, tensor.index): tensor.dtype for tensor in lite.tensors()}
    for operator in lite.ops():
        ends = [dtypes[operator.subgraph, index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        if operator.name in refused and "float32" in ends and (operator.name, ends[-1]) != ("CAST", "bool"):
            return False
    return bool(refused)


class _Choices(Replacements):
    @override
    def of(self, operator: Any) -> list[Any]:
        kind = self._kind(operator)
        inputs, output = [int(index) for index in items(operator.inputs)], int(operator.outputs[0])
        if (
            kind in {getattr(self._kinds, name) for name in COMPARISONS}
            and self._type(inputs[0]) == self._types.FLOAT32
        ):
            return self._comparison(operator, kind, inputs, output)
        if kind in (self._kinds.SELECT, self._kinds.SELECT_V2) and self._type(output) == self._types.FLOAT32:
            by_row = kind == self._kinds.SELECT and self._shape(inputs[0]) != self._shape(output)
            return [] if by_row else self._choice(inputs, output)
        return []

    def _comparison(self, operator: Any, kind: int, inputs: list[int], output: int) -> list[Any]:
        """Compare relu(a - b) or a - b with 0 instead, since TensorFlow aborts on some comparisons."""
        kinds = self._kinds
        if kind in (kinds.LESS, kinds.GREATER_EQUAL):
            inputs = inputs[::-1]
        relu = self._activations.RELU
        one_sided = kind not in (kinds.EQUAL, kinds.NOT_EQUAL)
        if not one_sided and not any(map(self._is_zero, inputs)):
            return []  # the steps of a difference are too coarse to tell equal values from others
        difference, made = self._difference(inputs, self._shape(output), relu if one_sided else 0)
        if kind in (kinds.GREATER, kinds.LESS, kinds.NOT_EQUAL):
            return [*made, self._cast(difference, output)]
        opposite = self._like(output, self._types.BOOL)
        return [
            *made,
            self._cast(difference, opposite),
            new_operator(self._model, kinds.LOGICAL_NOT, [opposite], [output]),
        ]

    def _difference(self, inputs: list[int], shape: tuple[int, ...], fused: int) -> tuple[int, list[Any]]:
        """Return a tensor of a - b with a fused activation, and the operators for it; without SUB where one is 0."""
        difference = self._float(shape)
        zeros = [self._is_zero(index) for index in inputs]
        if not any(zeros):
            return difference, [self._operator("SUB", inputs, difference, fused)]
        zero, other = inputs if zeros[0] else inputs[::-1]
        # In the shape of the zeros, which may be larger than the other one.
        sign = self._constant(np.full(self._shape(zero), -1 if zeros[0] else 1, np.float32))
        return difference, [self._operator("MUL", [other, sign], difference, fused)]

    def _cast(self, source: int, target: int) -> Any:
        options = self._schema.CastOptionsT()
        options.inDataType, options.outDataType = self._type(source), self._type(target)
        return new_operator(self._model, self._kinds.CAST, [source], [target], options)

    def _choice(self, inputs: list[int], output: int) -> list[Any]:
        """Make `yes * on + no * off`, with 1 or 0 for `on` where the condition holds; only one product beside zeros."""
        condition, *chosen = inputs
        number = self._like(condition, self._types.INT32)
        made, products = [self._cast(condition, number)], []
        for index, table in zip(chosen, ((0.0, 1.0), (1.0, 0.0)), strict=True):
            if not self._is_zero(index):
                weight = self._like(condition, self._types.FLOAT32)
                products.append(self._float(np.broadcast_shapes(self._shape(index), self._shape(condition))))
                made += [
                    self._looked_up(table, number, weight),
                    self._operator("MUL", [index, weight], products[-1]),
                ]
        if not products:
            return []
        if len(products) == 2:
            return [*made, self._operator("ADD", products, output)]
        ones = self._constant(np.ones(self._shape(output), np.float32))  # TensorFlow aborts at a sum with zeros
        return [*made, *(self._operator("MUL", [product, ones], output) for product in products)]

    def _looked_up(self, table: tuple[float, float], number: int, output: int) -> Any:
        rows = self._constant(np.array(table, np.float32))
        return new_operator(self._model, self._kinds.GATHER, [rows, number], [output], self._schema.GatherOptionsT())

    def _float(self, shape: tuple[int, ...]) -> int:
        made = self._schema.TensorT()
        made.type = self._types.FLOAT32
        return added_like(self._subgraph, made, shape)
