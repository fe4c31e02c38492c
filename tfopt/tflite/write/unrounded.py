"""Keep in float what a model from `Quantize` leaves unrounded: values that go to float64 and back (`ranges.apart`)."""

from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import drop_unread, items, kind_of, unpacked


def float_outputs(data: bytes) -> list[str]:
    """Return the outputs of the operators that compute from marked values, up to the next QUANTIZE, by tensor name.

    Calibration would make them int8.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(data)
    subgraph, found = model.subgraphs[0], dict[int, str]()
    marks = _Marks(model, subgraph)
    for operator in items(subgraph.operators):
        if marks.kind(operator) == schema.BuiltinOperator.QUANTIZE:
            continue
        if marks.widens(operator) or any(int(index) in found for index in items(operator.inputs)):
            found.update({int(index): subgraph.tensors[int(index)].name.decode() for index in items(operator.outputs)})
    return list(found.values())


def without_marks(model: Any, subgraph: Any) -> bool:
    """Remove the marks of a subgraph. For `rewritten`."""
    changed = _without_marks_of_outputs(model, subgraph)
    marks = _Marks(model, subgraph)
    sources = [[marks.source(int(index)) for index in items(each.inputs)] for each in items(subgraph.operators)]
    for operator, ends in zip(items(subgraph.operators), sources, strict=True):
        if ends != [int(index) for index in items(operator.inputs)]:
            operator.inputs, changed = np.array(ends, np.int32), True
    if changed:
        drop_unread(model, subgraph, ("CAST", "DEQUANTIZE", "QUANTIZE"))
    return changed


def _without_marks_of_outputs(model: Any, subgraph: Any) -> bool:
    """Let operators make the outputs themselves that are marked results of theirs; return whether any is."""
    marks = _Marks(model, subgraph)
    ports = {int(index) for ends in (subgraph.inputs, subgraph.outputs) for index in items(ends)}
    moved: dict[int, int] = {}  # each to an output
    for output in map(int, items(subgraph.outputs)):
        source = marks.source(output)
        if source != output and source not in ports and source not in moved and marks.is_computed(source):
            moved[source] = output
    outputs = set(moved.values())
    kept = [each for each in items(subgraph.operators) if not outputs.intersection(map(int, items(each.outputs)))]
    for operator in kept:
        operator.inputs = np.array([moved.get(int(index), int(index)) for index in items(operator.inputs)], np.int32)
        operator.outputs = np.array([moved.get(int(index), int(index)) for index in operator.outputs], np.int32)
    subgraph.operators = kept
    return bool(moved)


class _Marks:
    def __init__(self, model: Any, subgraph: Any) -> None:
        self._model, self._subgraph = model, subgraph
        self._made_by = {int(end): each for each in items(subgraph.operators) for end in items(each.outputs)}

    def kind(self, operator: Any) -> int:
        return kind_of(self._model.operatorCodes[operator.opcodeIndex])

    def widens(self, operator: Any) -> bool:
        """Return whether an operator turns float32 into float64."""
        from ai_edge_litert import schema_py_generated as schema

        types = [
            self._subgraph.tensors[int(ends[0])].type for ends in (items(operator.inputs), items(operator.outputs))
        ]
        return types == [schema.TensorType.FLOAT32, schema.TensorType.FLOAT64]

    def is_computed(self, index: int) -> bool:
        """Return whether an operator makes the tensor `index`."""
        return index in self._made_by

    def source(self, index: int) -> int:
        """Return the tensor that marks give as `index`, or `index` itself."""
        while (before := self._before_mark(index)) is not None:
            index = before
        return index

    def _before_mark(self, index: int) -> int | None:
        marked = self._unmarked(index)
        if marked is None:  # the converter rounds the input of an LSTM even if it leaves the LSTM in float
            rounded = self._input(index, "DEQUANTIZE")
            before = None if rounded is None else self._input(rounded, "QUANTIZE")
            marked = None if before is None else self._unmarked(before)
        return marked

    def _unmarked(self, index: int) -> int | None:
        wide = self._input(index, "CAST")
        if wide is None or wide not in self._made_by or not self.widens(self._made_by[wide]):
            return None
        return self._input(wide, "CAST")

    def _input(self, index: int, kind: str) -> int | None:
        """Return the input of the operator that makes the tensor `index`, if it is of this kind."""
        from ai_edge_litert import schema_py_generated as schema

        operator = self._made_by.get(index)
        if operator is None or self.kind(operator) != getattr(schema.BuiltinOperator, kind):
            return None
        return int(operator.inputs[0])
