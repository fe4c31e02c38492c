"""Keep in float what becomes indices: a scale would round them, and the file would read other rows of its tables."""

import numpy as np

from tfopt.errors import ModelError
from tfopt.tflite.read.flatbuffer import drop_unread, has_operator, packed, unpacked
from tfopt.tflite.read.graph import FileGraph
from tfopt.tflite.read.index_values import index_values, unrounded
from tfopt.tflite.settings import Export


def exact_values(data: bytes) -> tuple[list[str], list[str]]:
    """Return what stays float in an integer file made of a float .tflite, by tensor name.

    Returns:
        The results of operators that become indices, and the inputs that do.
    """
    if not has_operator(data, "CAST"):
        return [], []
    graph = FileGraph(data)
    tensors = dict(enumerate(graph.tensors[0]))
    found = index_values(graph.ops, tensors)
    made = [tensors[output].name for op in found.makers for output in op.outputs]
    return made, [port.name for port in graph.ports("inputs") if port.index in found.tensors]


def border_for(settings: Export, inputs: list[str]) -> str:
    """Return the type of the inputs and outputs of a file whose `inputs` become indices.

    Raises:
        ModelError: the settings ask for another type than float32.
    """
    if not inputs or settings.border == "float32":
        return settings.border
    if settings.io is not None:
        raise ModelError(
            f"The values of {', '.join(inputs)} become indices into a table, and {settings.io} would round them. Leave "
            'io out for float32 inputs, or give that input of the model dtype="int32".'
        )
    return "float32"


def with_exact_indices(data: bytes) -> bytes:
    """Return an integer file whose indices are made of floats before these are rounded, not after."""
    if not has_operator(data, "CAST"):
        return data
    graph = FileGraph(data)
    tensors = dict(enumerate(graph.tensors[0]))
    made_by = {output: op for op in graph.ops if op.subgraph == 0 for output in op.outputs}
    found = index_values(graph.ops, tensors)
    changed = {
        op.index: exact
        for op in (*found.casts, *found.makers)
        if (exact := [end if end < 0 else unrounded(end, made_by, tensors) for end in op.inputs]) != list(op.inputs)
    }
    if not changed:
        return data
    model = unpacked(data)
    subgraph = model.subgraphs[0]
    for index, inputs in changed.items():
        subgraph.operators[index].inputs = np.array(inputs, np.int32)
    drop_unread(model, subgraph, ("DEQUANTIZE", "QUANTIZE"))
    return packed(model, len(data))
