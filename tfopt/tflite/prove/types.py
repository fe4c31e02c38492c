"""Compare the types of the tensors in a `.tflite` with the requested ones."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.errors import ModelError, PromiseError
from tfopt.tflite.read import LiteModel, Op, Port, Weight
from tfopt.tflite.read.graph import FLOATS
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export

# The weight types that a file may hold, by requested type. Weights that `Quantize` trained in fewer bits may take 4.
WEIGHTS = {"float32": {"float32"}, "float16": {"float16"}, "int8": {"int8", "int4"}, "int4": {"int4"}}
# The converter keeps smaller kernels in float when activations are float.
SMALL_KERNEL = 1024
UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY"})
CHANGES_TYPE = frozenset({"QUANTIZE", "DEQUANTIZE"})
NAMED_AT_MOST = 8
# Operators that the converter has no int8 form for, though they compute with floats.
_WITHOUT_INT8 = """
    ATAN2 BUCKETIZE CAST CEIL COMPLEX_ABS CONV_3D CONV_3D_TRANSPOSE COS CUMSUM DYNAMIC_UPDATE_SLICE ELU FLOOR FLOOR_DIV
    FLOOR_MOD IF LOCAL_RESPONSE_NORMALIZATION NEG IMAG POW REAL RFFT2D ROUND SCATTER_ND SEGMENT_SUM SIGN SIN TOPK_V2
    UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM WHILE ZEROS_LIKE"""
WITHOUT_INT8 = frozenset(_WITHOUT_INT8.split())
# Operators whose results have the scale of their inputs: beside a float operator they are in float too.
_PASSING = """
    ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_TO_SPACE_ND BROADCAST_TO CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS GATHER
    GATHER_ND MAXIMUM MAX_POOL_2D MINIMUM MIRROR_PAD PACK PAD PADV2 REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT SELECT_V2 SLICE SPACE_TO_BATCH_ND SPACE_TO_DEPTH
    SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK"""
PASSING = frozenset(_PASSING.split())


@dataclass(frozen=True)
class Contents:
    """A summary of a file: weights by dtype, operators by output dtype, and descriptions of inputs and outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: dict[str, int]
    operators: dict[str, int]
    labels: tuple[str, ...]
    bytes: int
    deflated: int

    def table(self, title: str) -> Any:
        """Return a `rich.table.Table`."""
        from rich.table import Table

        table = Table(title=title, title_justify="left", show_header=False)
        rows = {
            "inputs": "; ".join(self.inputs),
            "outputs": "; ".join(self.outputs),
            "weights": _counted(self.weights) or "none",
            "operators by output type": _counted(self.operators),
            "classes": ", ".join(self.labels),
            "bytes": f"{self.bytes:,}, {self.deflated:,} deflated",
        }
        for name, text in rows.items():
            if text:
                table.add_row(name, text)
        return table


def contents(lite: LiteModel) -> Contents:
    """Summarize `lite`."""
    tensors = {(tensor.subgraph, tensor.index): tensor for tensor in lite.tensors()}
    weights: Counter[str] = Counter()
    for weight in lite.weights():
        weights[weight.tensor.dtype + (" sparse" if weight.tensor.sparse else "")] += weight.values.size
    ops = [op for op in lite.ops() if op.outputs and not _unpacks_constant(op, tensors)]
    operators = Counter(tensors[op.subgraph, op.outputs[0]].dtype for op in ops)
    return Contents(
        inputs=tuple(map(port_in_words, lite.inputs)),
        outputs=tuple(map(port_in_words, lite.outputs)),
        weights=dict(weights),
        operators=dict(operators),
        labels=lite.labels,
        bytes=lite.size,
        deflated=lite.deflated,
    )


def port_in_words(port: Port) -> str:
    """Return an input or output as "name dtype (shape)", with its scale and zero point if quantized."""
    text = f"{port.name} {port.dtype} {port.shape}"
    return f"{text} x {port.scales[0]:.4g} from {port.zero_points[0]}" if port.scales else text


def verify_types(lite: LiteModel, settings: Export, in_float: Mapping[str, str], names: LayerNames) -> list[str]:
    """Compare the types in the file with the requested ones.

    Args:
        lite: the file.
        settings: the requested types.
        in_float: the layers that are left in float, and why; float operators are allowed if there are any.
        names: to name the layers of operators in messages.

    Returns:
        Notes on types that differ but are allowed.

    Raises:
        PromiseError: the types of inputs or outputs differ; a tensor is float or of another width although activations
            are integers; or weights differ, except for 8 bits where 4 bits are not supported.
    """
    floats = frozenset(float_operators(lite) if in_float else ())
    if settings.integer_only:
        if not in_float:
            _verify_no_floats(lite, settings, names)
        _verify_activations(lite, settings, names, floats)
    _verify_borders(lite, settings, any_floats=bool(in_float))
    return [
        *_float_notes(floats, settings, in_float, names),
        *_weight_notes(lite, settings, names, floats),
    ]


def verify_finite(lite: LiteModel, names: LayerNames) -> None:
    """Check that the constants of the file are finite, since folding computes new ones.

    Args:
        lite: the file.
        names: to name the layers of constants in messages.

    Raises:
        ModelError: a weight or its scale is NaN or infinite.
    """
    numbers = ((weight, weight.tensor.scales or weight.values) for weight in lite.weights())
    wrong = [weight for weight, values in numbers if not np.isfinite(np.asarray(values, np.float64)).all()]
    if wrong:
        of = _operators([op for weight in wrong for op in weight.readers[:1]], names)
        raise ModelError(
            f"The converter turned finite weights into NaN or infinity, in {of}. Look there for a BatchNormalization "
            "with a negative moving_variance, or for weights that are too large for their type."
        )


def _verify_borders(lite: LiteModel, settings: Export, *, any_floats: bool) -> None:
    """Check the types of inputs and outputs. Plain integers, such as indices, have no scale and are not checked.

    Inputs that nothing reads may be in float. So may those of float operators, if there may be `any_floats` and nobody
    has asked for a type.
    """
    free = {port.index for port in _unread(lite)}
    for port in (*lite.inputs, *lite.outputs):
        if port.dtype in FLOATS and (port.index in free or (any_floats and settings.io is None)):
            continue
        if (port.scales or port.dtype in FLOATS) and port.dtype != settings.border:
            raise PromiseError(
                f"{settings.border} inputs and outputs were promised, but '{port.name}' is {port.dtype} in the file. "
                f'Export with io="{port.dtype}".'
            )


def _unread(lite: LiteModel) -> list[Port]:
    """Return the inputs that no operator reads."""
    read = {index for op in lite.ops() if op.subgraph == 0 for index in op.inputs}
    read.update(port.index for port in lite.outputs)
    return [port for port in lite.inputs if port.index not in read]


def port_notes(lite: LiteModel, settings: Export) -> list[str]:
    """Return notes on inputs that nothing reads, and on inputs and outputs that are float where others are integers."""
    unread = _unread(lite)
    notes = [f"nothing in the model uses its input '{port.name}'" for port in unread]
    ports = [port for port in (*lite.inputs, *lite.outputs) if port not in unread]
    floats = [f"'{port.name}'" for port in ports if port.dtype in FLOATS]
    if floats and settings.border not in FLOATS:
        notes.append(f"float32 and not {settings.border}, next to operators in float: {', '.join(floats)}")
    return notes


def _verify_no_floats(lite: LiteModel, settings: Export, names: LayerNames) -> None:
    if floats := lite.float_tensors():
        of = _operators(float_operators(lite), names)
        advice = "Replace the layers, or export" if settings.mixed else "Allow them with mixed=True, or export"
        if computes_in_float(lite):
            advice = "Nothing that it computes has integers: export"
        raise PromiseError(
            f"{settings.activations} everywhere was promised, but {len(floats)} tensors of the .tflite are float: "
            f'{", ".join(floats[:5])}. Float operators: {of}. {advice} with activations="float32"; after Quantize, '
            "pass representative_data for ranges that training did not set."
        )


def _verify_activations(lite: LiteModel, settings: Export, names: LayerNames, floats: Collection[Op]) -> None:
    """Check the types of what all operators but `floats` compute."""
    tensors = {(tensor.subgraph, tensor.index): tensor for tensor in lite.tensors()}
    ends = {port.index for port in (*lite.inputs, *lite.outputs)}
    computed = [(op, tensors[op.subgraph, op.outputs[0]]) for op in lite.ops() if op.outputs]
    other = [
        op
        for op, tensor in computed
        if op not in floats and tensor.scales and tensor.dtype != settings.activations and tensor.index not in ends
        if not _reads_rescaled_weights(op, lite, tensors)
    ]
    if other:
        kinds = sorted({tensors[op.subgraph, op.outputs[0]].dtype for op in other})
        raise PromiseError(
            f"{settings.activations} activations were promised, but {_operators(other, names)} produce "
            f"{', '.join(kinds)} in the file. Replace the layers, or export with other activations."
        )


def _reads_rescaled_weights(op: Op, lite: LiteModel, tensors: Mapping[tuple[int, int], Any]) -> bool:
    """Return whether `op` looks up rows of weights that a QUANTIZE brings to the type of the activations."""
    if op.name != "GATHER" or not tensors[op.subgraph, op.inputs[0]].constant:
        return False
    readers = [reader for reader in lite.ops() if reader.subgraph == op.subgraph and op.outputs[0] in reader.inputs]
    return bool(readers) and all(reader.name == "QUANTIZE" for reader in readers)


def _weight_notes(lite: LiteModel, settings: Export, names: LayerNames, floats: Collection[Op]) -> list[str]:
    """Check the types of the weights that all operators but `floats` read, and return notes on them."""
    expected = settings.weights
    readers = _readers(lite)
    read = [(weight, *readers[weight.tensor.subgraph, weight.tensor.index]) for weight in lite.weights()]
    weights = [(weight, op, unpacked) for weight, op, unpacked in read if op not in floats]
    other = [(weight, op) for weight, op, _ in weights if weight.tensor.dtype not in WEIGHTS[expected]]
    narrow = [op for weight, op in other if expected == "int4" and weight.tensor.dtype == "int8"]
    wide = [op for weight, op in other if settings.activations == weight.tensor.dtype == "int16"]
    rest = [(weight, op) for weight, op in other if op not in (*narrow, *wide)]
    if rest and not _may_stay(rest, settings):
        weight, op = max(rest, key=lambda one: one[0].values.size)
        raise PromiseError(
            f"{expected} weights were promised, but {weight.tensor.name} is {weight.tensor.dtype}: the converter has "
            f"no {expected} form for it. It is read by {_operators([op], names)}."
        )
    if weights and len(other) == len(weights) and settings.by_edge_quantizer:
        raise PromiseError(
            f"{expected} weights were promised, but no operator of the file has a form for them: "
            f"{_operators([op for _, op in other], names)}."
        )
    notes = []
    if wide:  # as tied embeddings and constants in products: activations to the converter
        notes.append(f"int16 weights, since the converter has no int8 form for them: {_operators(wide, names)}")
    if narrow:
        notes.append(f"int8 weights, since no operator supports 4 bits: {_operators(narrow, names)}")
    if rest:
        kinds = ", ".join(dict.fromkeys(weight.tensor.dtype for weight, _ in rest))
        notes.append(f"{kinds} weights left: {_operators([op for _, op in rest], names)}")
    notes += _computed_in_float(weights, settings, names)
    if settings.sparse:
        notes.append(_sparse_note([(weight, op) for weight, op, _ in weights if weight.tensor.sparse], names))
    return notes


def _may_stay(rest: list[tuple[Weight, Op]], settings: Export) -> bool:
    """Return whether weights of other types than requested deserve only a note."""
    if settings.integer_only or settings.weights in ("float32", "float16"):
        return False
    return settings.by_edge_quantizer or all(np.prod(weight.tensor.shape) < SMALL_KERNEL for weight, _ in rest)


def _computed_in_float(weights: list[tuple[Weight, Op, bool]], settings: Export, names: LayerNames) -> list[str]:
    """Return notes on integer weights with float activations, which operators may use in integers or in float."""
    if settings.integer_only or settings.weights in ("float32", "float16"):
        return []
    integer = [(op, unpacked) for weight, op, unpacked in weights if weight.tensor.dtype not in FLOATS]
    if settings.weight_only and (direct := [op for op, unpacked in integer if not unpacked]):
        raise PromiseError(f"Weight-only integers were promised, but {_operators(direct, names)} compute with them.")
    in_float = [op for op, unpacked in integer if unpacked]
    if settings.weight_only or not in_float:
        return []
    return [f"integer weights, but computed in float, since no integer operator exists: {_operators(in_float, names)}"]


def _sparse_note(found: list[tuple[Weight, Op]], names: LayerNames) -> str:
    if not found:
        return "no kernel has enough zeros to be stored sparsely"
    return f"stored sparsely: {_operators([op for _, op in found], names)}"


def operators_without_form(lite: LiteModel, settings: Export) -> list[Op]:
    """Return the float operators of a file that have no integer form; [] if others are in float, or all are.

    An operator of `PASSING` is in float beside one without an integer form, and any in a branch of an IF or in a loop.
    """
    floats = float_operators(lite)
    if settings.activations == "int16":  # the quantizer goes by the operator alone
        without, rest = floats, list[Op]()
    else:
        exact = lite.index_values().makers  # a scale would round indices
        without = [op for op in floats if op.name in WITHOUT_INT8 or op in exact or op.subgraph]
        rest = [op for op in floats if op not in without]
    reached = {(op.subgraph, end) for op in without for end in (*op.inputs, *op.outputs)}
    while beside := [op for op in rest if op.name in PASSING and _touches(op, reached)]:
        rest = [op for op in rest if op not in beside]
        reached |= {(op.subgraph, end) for op in beside for end in (*op.inputs, *op.outputs)}
    return [] if rest or computes_in_float(lite) else without


def _touches(op: Op, places: Collection[tuple[int, int]]) -> bool:
    return any((op.subgraph, end) in places for end in (*op.inputs, *op.outputs))


def computes_in_float(lite: LiteModel) -> bool:
    """Return whether the operators of a file that compute new values do so in float; False if none computes any."""
    floats, computing = float_operators(lite), [op for op in lite.ops() if op.name not in CHANGES_TYPE | PASSING]
    return bool(computing) and all(op in floats for op in computing)


def float_operators(lite: LiteModel) -> list[Op]:
    """Return the operators that compute in float, except those that only change the type."""
    floats = set(lite.float_tensors())
    in_float = {(t.subgraph, t.index) for t in lite.tensors() if t.name in floats and t.dtype in FLOATS}
    return [
        op
        for op in lite.ops()
        if op.name not in CHANGES_TYPE and any((op.subgraph, index) in in_float for index in (*op.inputs, *op.outputs))
    ]


def _float_notes(
    found: Collection[Op], settings: Export, in_float: Mapping[str, str], names: LayerNames
) -> Sequence[str]:
    """Return notes on the float operators `found` in a file with integer activations."""
    if not settings.integer_only or not found:
        return []
    layers = ", ".join(f"{name} ({why})" for name, why in in_float.items())
    found = sorted(found, key=lambda op: (op.subgraph, op.index))
    return [f"float operators in the file: {_operators(found, names)}; left in float: {layers}"]


def _operators(ops: Sequence[Op], names: LayerNames) -> str:
    """Return operators with their layers, "stem, head (CONV_2D)", or only their types if tensors have no names."""
    named = dict.fromkeys(f"{', '.join(names.near(op))} ({op.name})".strip() for op in ops)
    more = f" and {len(named) - NAMED_AT_MOST} more" if len(named) > NAMED_AT_MOST else ""
    return "; ".join(list(named)[:NAMED_AT_MOST]) + more


def _readers(lite: LiteModel) -> dict[tuple[int, int], tuple[Op, bool]]:
    """Return, for each tensor that an operator reads, this operator and whether a DEQUANTIZE is in between."""
    makers = {(op.subgraph, index): op for op in lite.ops() for index in op.outputs}
    readers: dict[tuple[int, int], tuple[Op, bool]] = {}
    for op in lite.ops():
        if op.name in UNPACKING:
            continue
        for index in op.inputs:
            place, unpacked = (op.subgraph, index), False
            while (maker := makers.get(place)) is not None and maker.name in UNPACKING:
                place, unpacked = (op.subgraph, maker.inputs[0]), unpacked or maker.name == "DEQUANTIZE"
            readers.setdefault(place, (op, unpacked))
    return readers


def _unpacks_constant(op: Op, tensors: Mapping[tuple[int, int], Any]) -> bool:
    return op.name in UNPACKING and tensors[op.subgraph, op.inputs[0]].constant


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items())
