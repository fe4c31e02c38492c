"""Move attention-mask constants close to the scores they mask, in the float file, before calibration.

A mask adds -1e9 to the scores, or selects it instead of them. One int8 scale over both has steps of 4e6, and all scores
become equal. For softmax, a constant just below the scores does the same: with lo and hi the extremes of the scores of
S keys, masked ones at lo - ln(512 S) have less than half an int8 step of the probability together.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfopt.stages.quantize.mask_ranges import FAR, HALF_STEP
from tfopt.tflite.read.flatbuffer import (
    added_buffer,
    drop_unused_codes,
    items,
    kind_of,
    new_operator,
    operator_code,
    packed,
    rewritten,
    stored,
    unpacked,
)

_ADDING, _SELECTING = ("ADD", "SUB"), ("SELECT", "SELECT_V2")
_MOVING = ("RESHAPE", "TRANSPOSE", "EXPAND_DIMS", "SQUEEZE")
Calibrate = Callable[[bytes], bytes]
"""float .tflite -> the same with the extremes of each tensor."""


def with_near_masks(data: bytes, calibrate: Calibrate) -> bytes:
    """Return the float .tflite `data` with ranges, after its masks were brought near the scores.

    Args:
        data: a float .tflite.
        calibrate: measures the ranges; called a second time if there are such masks.
    """
    data = rewritten(data, _with_selected_bools)
    model = unpacked(data)
    found = [softmax for number in range(len(model.subgraphs)) for softmax in _Subgraph(model, number).softmaxes()]
    for softmax in found:
        softmax.replace(model, 0.0, 0.0)
    calibrated = rewritten(calibrate(packed(model, len(data)) if found else data), _with_ranges_of_sources)
    if flags := _flags(calibrated):
        data = rewritten(data, functools.partial(_with_selected_flags, flags=flags))
    if not found:
        return rewritten(calibrate(data), _with_ranges_of_sources) if flags else calibrated
    ranges, model = unpacked(calibrated), unpacked(data)
    for softmax in found:
        softmax.measure(ranges)
        softmax.replace(model, softmax.low, softmax.most)
    calibrated = rewritten(calibrate(packed(model, len(data))), _with_ranges_of_sources)
    ranges = unpacked(calibrated)
    for softmax in found:
        softmax.clip(ranges)
    return packed(ranges, len(calibrated))


def _with_ranges_of_sources(model: Any, subgraph: Any) -> bool:
    """Give what only moves values the range of these values. For `rewritten`.

    An operator behind it may compute in place, and TensorFlow's calibrator then sees the result of that one.
    """
    from ai_edge_litert import schema_py_generated as schema

    moving = {getattr(schema.BuiltinOperator, name) for name in _MOVING}
    changed = False
    for operator in items(subgraph.operators):
        if kind_of(model.operatorCodes[operator.opcodeIndex]) not in moving:
            continue
        source, target = (subgraph.tensors[int(ends[0])] for ends in (operator.inputs, operator.outputs))
        known = _extremes(source.quantization), _extremes(target.quantization)
        if None not in known and known[0] != known[1]:
            target.quantization.min, target.quantization.max = source.quantization.min, source.quantization.max
            changed = True
    return changed


def _flags(calibrated: bytes) -> set[bytes]:
    """Return the names of float tensors that are integers of 0 and 1 for all samples."""
    from ai_edge_litert import schema_py_generated as schema

    found, model = set(), unpacked(calibrated)
    for subgraph in model.subgraphs:
        for operator in items(subgraph.operators):
            if kind_of(model.operatorCodes[operator.opcodeIndex]) == schema.BuiltinOperator.CAST:
                tensor = subgraph.tensors[int(operator.outputs[0])]
                extremes = _extremes(tensor.quantization)
                if tensor.type == schema.TensorType.FLOAT32 and extremes and extremes[0] >= 0 and extremes[1] <= 1:
                    found.add(tensor.name)
    return found


def _with_selected_flags(model: Any, subgraph: Any, flags: set[bytes]) -> bool:
    """Choose 1 or 0 by the integers that the tensors `flags` are cast from. For `rewritten`."""
    from ai_edge_litert import schema_py_generated as schema

    types = schema.TensorType
    floats = (types.FLOAT16, types.FLOAT32, types.FLOAT64)  # these may lie between 0 and 1
    return _select(model, subgraph, lambda source, target: target.name in flags and source.type not in floats)


def _with_selected_bools(model: Any, subgraph: Any) -> bool:
    """Choose 1 or 0 by a bool instead of casting it, for which int8 has no operator. For `rewritten`."""
    from ai_edge_litert import schema_py_generated as schema

    return _select(model, subgraph, lambda source, target: source.type == schema.TensorType.BOOL)


def _select(model: Any, subgraph: Any, chosen: Callable[[Any, Any], bool]) -> bool:
    """Replace each CAST to float32 of `chosen` (source, target) by a SELECT_V2 between 1 and 0."""
    from ai_edge_litert import schema_py_generated as schema

    kinds, types = schema.BuiltinOperator, schema.TensorType
    operators: list[Any] = []
    changed = False
    for operator in items(subgraph.operators):
        if kind_of(model.operatorCodes[operator.opcodeIndex]) == kinds.CAST:
            source, target = (subgraph.tensors[int(ends[0])] for ends in (operator.inputs, operator.outputs))
            if target.type == types.FLOAT32 and chosen(source, target):
                condition = int(operator.inputs[0])
                if source.type != types.BOOL:
                    operators.append(_as_bool(model, subgraph, operator))
                    condition = int(operators[-1].outputs[0])
                constants = [_constant(model, subgraph, value, target.name) for value in (1.0, 0.0)]
                operator.opcodeIndex = operator_code(model, kinds.SELECT_V2, version=1)
                operator.inputs = np.array([condition, *constants], np.int32)
                operator.builtinOptionsType = schema.BuiltinOptions.SelectV2Options
                operator.builtinOptions = schema.SelectV2OptionsT()
                changed = True
        operators.append(operator)
    if changed:
        subgraph.operators = operators
        drop_unused_codes(model)
    return changed


def _as_bool(model: Any, subgraph: Any, cast: Any) -> Any:
    """Return the CAST of the same integers to bool, with a new tensor in the subgraph."""
    from ai_edge_litert import schema_py_generated as schema

    target = copy.copy(subgraph.tensors[int(cast.outputs[0])])
    target.type, target.name, target.buffer = schema.TensorType.BOOL, (target.name or b"") + b"_bool", 0
    target.quantization = None
    subgraph.tensors.append(target)
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = subgraph.tensors[int(cast.inputs[0])].type, schema.TensorType.BOOL
    return new_operator(model, schema.BuiltinOperator.CAST, [cast.inputs[0]], [len(subgraph.tensors) - 1], options)


@dataclass
class _Softmax:
    """A softmax over masked scores.

    Attributes:
        subgraph: its number.
        keys: how many scores each distribution has.
        scores: tensors whose sum or choice the scores are, by name.
        added: constants that are added, subtracted or multiplied to mask.
        selected: constants that are selected instead of scores.
        masked: tensors of masked scores, by name.
        ranges: (low, high) of `scores`, after `measure`.
    """

    subgraph: int
    keys: int
    scores: list[bytes] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    selected: list[int] = field(default_factory=list)
    masked: list[bytes] = field(default_factory=list)
    ranges: dict[bytes, tuple[float, float]] = field(default_factory=dict)

    @property
    def low(self) -> float:
        """The value of masked scores, from which on softmax gives nothing."""
        return sum(low for low, _ in self.ranges.values()) - math.log(HALF_STEP * self.keys)

    @property
    def most(self) -> float:
        """What must be subtracted from any score to bring it there."""
        return sum(high for _, high in self.ranges.values()) - self.low

    def replace(self, model: Any, low: float, most: float) -> None:
        """Change the constants in a model: what is selected to `low` at least, what is added to `most` at most."""
        tensors = model.subgraphs[self.subgraph].tensors
        for number in self.added:
            _replace(model, tensors[number], lambda values: np.clip(values, -most, most))
        for number in self.selected:
            _replace(model, tensors[number], lambda values: np.maximum(values, low))

    def measure(self, model: Any) -> None:
        """Read the ranges of the scores in a calibrated model whose masks do nothing."""
        for tensor in model.subgraphs[self.subgraph].tensors:
            if tensor.name in self.scores and (extremes := _extremes(tensor.quantization)) is not None:
                self.ranges[tensor.name] = extremes

    def clip(self, model: Any) -> None:
        """Let the ranges of masked scores in a calibrated model begin where softmax gives nothing.

        Those of the scores are as measured: adding a mask in place shows the sum there.
        """
        for tensor in model.subgraphs[self.subgraph].tensors:
            if _extremes(tensor.quantization) is None:
                continue
            if tensor.name in self.ranges:
                tensor.quantization.min, tensor.quantization.max = (
                    np.array([end], np.float32) for end in self.ranges[tensor.name]
                )
            elif tensor.name in self.masked:
                tensor.quantization.min = np.maximum(tensor.quantization.min, np.float32(self.low))


class _Subgraph:
    """A subgraph of a float model."""

    def __init__(self, model: Any, number: int) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._number = model, number
        self._tensors = model.subgraphs[number].tensors
        names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        self._operators = [
            (names[kind_of(model.operatorCodes[each.opcodeIndex])], each)
            for each in items(model.subgraphs[number].operators)
        ]
        self._makers = {int(end): (kind, each) for kind, each in self._operators for end in items(each.outputs)}

    def softmaxes(self) -> Iterator[_Softmax]:
        """Return those whose scores are masked by far constants."""
        for kind, operator in self._operators:
            scores = int(operator.inputs[0])
            if kind == "SOFTMAX" and self._is_masked(scores):
                found = _Softmax(self._number, int(self._tensors[scores].shape[-1]))
                self._collect(scores, found)
                if found.scores:
                    yield found

    def _collect(self, tensor: int, found: _Softmax) -> None:
        """Follow what masked scores are made from."""
        kind, inputs = self._made_from(tensor)
        found.masked.append(self._tensors[tensor].name)
        for end in inputs:
            if self._is_far(end):
                (found.selected if kind in _SELECTING else found.added).append(end)
            elif self._is_masked(end):
                self._collect(end, found)
            elif kind in (*_ADDING, *_SELECTING) and _values(self._model, self._tensors[end]) is None:
                found.scores.append(self._tensors[end].name)

    def _is_masked(self, tensor: int) -> bool:
        """Return whether a far constant contributes to it."""
        _, inputs = self._made_from(tensor)
        return any(self._is_far(end) or self._is_masked(end) for end in inputs)

    def _made_from(self, tensor: int) -> tuple[str, list[int]]:
        """Return the operator that adds, selects, scales or moves values to a tensor, and the tensors of these."""
        kind, operator = self._makers.get(tensor, ("", None))
        inputs = [int(end) for end in operator.inputs] if operator is not None else []
        if kind in _SELECTING:
            return kind, inputs[1:]
        if kind in _MOVING:
            return kind, inputs[:1]
        return kind, inputs if kind in (*_ADDING, "MUL") else []

    def _is_far(self, tensor: int) -> bool:
        values = _values(self._model, self._tensors[tensor])
        return values is not None and bool(values.size) and float(np.abs(values).max()) >= FAR


def _extremes(quantization: Any) -> tuple[float, float] | None:
    if quantization is None or quantization.min is None or not len(quantization.min):
        return None
    return float(quantization.min[0]), float(quantization.max[0])


def _values(model: Any, tensor: Any) -> np.ndarray | None:
    """Return the numbers of a float32 constant."""
    from ai_edge_litert import schema_py_generated as schema

    found = stored(model, tensor)
    if found is None or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(found.tobytes(), np.float32)


def _replace(model: Any, tensor: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
    values = _values(model, tensor)
    if values is not None:  # in a new buffer: others may read the old one
        tensor.buffer = added_buffer(model, np.asarray(change(values), np.float32))


def _constant(model: Any, subgraph: Any, value: float, name: bytes | None) -> int:
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.shape, made.type = np.array([], np.int32), schema.TensorType.FLOAT32
    made.name = (name or b"") + (b"_one" if value else b"_zero")
    made.buffer = added_buffer(model, np.array([value], np.float32))
    subgraph.tensors.append(made)
    return len(subgraph.tensors) - 1
