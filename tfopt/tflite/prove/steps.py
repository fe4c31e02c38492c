"""The operators of a file as steps of its graph: what reads what, through conversions of types and shapes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tfopt.tflite.read import LiteModel, Op, Port, Tensor
from tfopt.tflite.read.layer_names import LayerNames

TYPES = ("QUANTIZE", "DEQUANTIZE", "CAST")
_CONNECTING = frozenset({*TYPES, "RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
COMMUTATIVE = frozenset({"ADD", "MUL", "MAXIMUM", "MINIMUM", "ADD_N"})

Source = tuple[str, int, int]
"""("step", its number, which result) or ("input", its number, 0)."""


@dataclass(eq=False)
class Step:
    """An operator, or the activation that is fused into one.

    Attributes:
        number: its place in the file.
        kind: the name of the operator or activation.
        shape: of its result, without the first axis.
        op: the operator.
        tensor: index of its result; None if an activation is fused behind it, so that the file does not store it.
        sources: what it reads, constants left out.
    """

    number: int
    kind: str
    shape: tuple[int, ...]
    op: Op
    tensor: int | None
    sources: tuple[Source, ...]

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What two steps must share to be one."""
        return self.kind, self.shape


@dataclass(eq=False)
class Plan:
    """The steps of the main graph of a file, in order, and how they are connected.

    Attributes:
        lite: the file.
        layers: names to look for in it.
        inputs, outputs: those of the other file, whose order counts.
        steps: in the order in which they run.
        ends: what the outputs are.
    """

    lite: LiteModel
    layers: Sequence[str]
    inputs: Sequence[Port] = ()
    outputs: Sequence[Port] = ()
    steps: list[Step] = field(default_factory=list)
    ends: list[Source | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        inputs = _in_order(self.lite.inputs, self.inputs)
        sources: dict[int, Source] = {port.index: ("input", at, 0) for at, port in enumerate(inputs)}
        for op in self.lite.ops():
            if op.subgraph != 0 or not op.outputs:
                continue
            read = tuple(sources[index] for index in op.inputs if index in sources)
            if op.name in TYPES or (op.name in _CONNECTING and not read):
                sources.update({output: read[0] for output in op.outputs if read})
                continue
            made = self._steps(op, read)
            self.steps += made
            behind = read[0] if op.name in _CONNECTING else ("step", made[-1].number, 0)
            sources.update({tensor: (*behind[:2], behind[2] + at) for at, tensor in enumerate(op.outputs)})
        self.ends = [sources.get(port.index) for port in _in_order(self.lite.outputs, self.outputs)]

    def _steps(self, op: Op, read: tuple[Source, ...]) -> list[Step]:
        shape, number = self.tensors[op.outputs[0]].shape[1:], len(self.steps)
        fused = self.lite.activation(op)
        first = Step(number, op.name, shape, op, None if fused else op.outputs[0], read)
        behind = Step(number + 1, fused, shape, op, op.outputs[0], (("step", number, 0),)) if fused else None
        return [first, behind] if behind else [first]

    @cached_property
    def tensors(self) -> dict[int, Tensor]:
        """The tensors of the main graph by index."""
        return {tensor.index: tensor for tensor in self.lite.tensors() if tensor.subgraph == 0}

    @cached_property
    def readers(self) -> list[list[tuple[Step, int]]]:
        """For each step, those that read it, and at which place; places of a sum are alike."""
        found: list[list[tuple[Step, int]]] = [[] for _ in self.steps]
        for step in self.steps:
            for place, (kind, number, _) in enumerate(step.sources):
                if kind == "step":
                    found[number].append((step, 0 if step.kind in COMMUTATIVE else place))
        return found

    @cached_property
    def purposes(self) -> list[int]:
        """For each step, a number that is equal for steps with the same way to the outputs."""
        found = [0] * len(self.steps)
        for step in reversed(self.steps):
            ends = [at for at, end in enumerate(self.ends) if end is not None and end[:2] == ("step", step.number)]
            read = sorted((*reader.key, place, found[reader.number]) for reader, place in self.readers[step.number])
            found[step.number] = hash((tuple(ends), tuple(read)))
        return found

    @cached_property
    def origins(self) -> list[int]:
        """For each step, a number that is equal for steps with the same way from the inputs, themselves included."""
        found: list[int] = []
        for step in self.steps:
            read = [(found[at] if kind == "step" else at, result, kind) for kind, at, result in step.sources]
            found.append(hash((step.key, tuple(sorted(read) if step.kind in COMMUTATIVE else read))))
        return found

    @cached_property
    def before(self) -> list[int]:
        """For each step, a set of the steps that it depends on, as bits."""
        found: list[int] = []
        for step in self.steps:
            bits = 0
            for kind, number, _ in step.sources:
                if kind == "step":
                    bits |= found[number] | 1 << number
            found.append(bits)
        return found

    @cached_property
    def names(self) -> list[frozenset[str]]:
        """For each step, the layers whose output it is, as far as the file has names."""
        names = LayerNames(self.lite, self.layers)
        return [frozenset(names.giving(step.op)) for step in self.steps]

    @cached_property
    def kernels(self) -> dict[int, np.ndarray]:
        """The largest weight that each operator reads, in real values, by operator."""
        found: dict[int, np.ndarray] = {}
        for weight in self.lite.weights():
            for reader in weight.readers:
                if reader.subgraph == 0 and weight.values.size > found.get(reader.index, np.empty(0)).size:
                    found[reader.index] = weight.dequantized
        return found


def _in_order(ports: Sequence[Port], wanted: Sequence[Port]) -> list[Port]:
    """Return `ports` in the order of the names in `wanted`; unchanged if the names differ."""
    names = [port.name for port in wanted]
    if {port.name for port in ports} != set(names):
        return list(ports)
    return sorted(ports, key=lambda port: names.index(port.name))
