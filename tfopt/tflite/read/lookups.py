"""The tables of a file in which it looks up its inputs as they are."""

from tfopt.tflite.read.model import LiteModel

_MOVES = frozenset({"CAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE", "TRANSPOSE"})


def lookups(lite: LiteModel) -> list[tuple[int, str, int]]:
    """Return for each table the number of the input, the layer or else the operator, and the number of rows."""
    shapes = {weight.tensor.index: weight.tensor.shape for weight in lite.weights() if weight.tensor.subgraph == 0}
    numbers = {port.index: number for number, port in enumerate(lite.inputs)}
    found = []
    for op in (op for op in lite.ops() if op.subgraph == 0):
        if op.name in _MOVES and op.inputs[0] in numbers:
            numbers[op.outputs[0]] = numbers[op.inputs[0]]
        elif op.name == "GATHER" and op.inputs[0] in shapes and op.inputs[1] in numbers:
            layer = lite.layers.get(op.index)
            what = f"layer '{layer}'" if layer else f"operator {op.name}"
            found.append((numbers[op.inputs[1]], what, shapes[op.inputs[0]][0]))
    return found
