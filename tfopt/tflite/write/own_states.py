"""States of operators that keep them: each in a variable that nothing else reads."""

from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import added_buffer, items, kind_of

KEEPING_STATES = ("BIDIRECTIONAL_SEQUENCE_LSTM", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM")
"""Operators whose states are variables of the interpreter."""
_TYPES = {"FLOAT32": np.float32, "INT8": np.int8, "INT16": np.int16}


def with_own_states(model: Any, subgraph: Any) -> bool:
    """Give each state a separate tensor. For `rewritten`.

    The converter merges equal constants, and a state with the zeros that it begins with. Whatever reads these zeros,
    such as the first state of a GRU behind an LSTM of the same size, would read the last state of the LSTM.
    """
    from ai_edge_litert import schema_py_generated as schema

    keeping = {getattr(schema.BuiltinOperator, kind) for kind in KEEPING_STATES}
    readers: dict[int, list[tuple[Any, int]]] = {}
    for operator in items(subgraph.operators):
        for place, index in enumerate(items(operator.inputs)):
            if index >= 0 and subgraph.tensors[int(index)].isVariable:
                readers.setdefault(int(index), []).append((operator, place))
    changed = False
    for index, found in readers.items():
        others = [each for each, _ in found if kind_of(model.operatorCodes[each.opcodeIndex]) not in keeping]
        owners = [(each, place) for each, place in found if not any(each is other for other in others)]
        shared = others or any(index == int(end) for end in items(subgraph.outputs))
        for operator, place in owners if shared else owners[1:]:
            operator.inputs = np.array(operator.inputs)
            operator.inputs[place] = _copy_of(subgraph, index)
            changed = True
        if shared:
            _make_constant(model, subgraph.tensors[index])
    return changed


def _copy_of(subgraph: Any, index: int) -> int:
    import copy

    state = copy.copy(subgraph.tensors[index])
    state.buffer, state.name = 0, (state.name or b"") + b"_state"
    subgraph.tensors.append(state)
    return len(subgraph.tensors) - 1


def _make_constant(model: Any, tensor: Any) -> None:
    """Turn a variable into the zeros that it begins with."""
    from ai_edge_litert import schema_py_generated as schema

    kind = next(np_type for name, np_type in _TYPES.items() if getattr(schema.TensorType, name) == tensor.type)
    zero = 0
    if tensor.quantization is not None and len(items(tensor.quantization.zeroPoint)):
        zero = int(tensor.quantization.zeroPoint[0])
    tensor.isVariable = False
    tensor.buffer = added_buffer(model, np.full(tuple(tensor.shape), zero, kind))
