"""Conversion of a traced function to a native model: freeze, read, fuse, build, compare."""

from typing import Any

from tfopt.models.rebuild.build import build, check_equal
from tfopt.models.rebuild.frozen import Frozen, NoLayerError
from tfopt.models.rebuild.fusing import fuse
from tfopt.models.rebuild.reading import Program, read

_SQUASHING = ("Softmax", "Sigmoid", "Tanh")


def rebuilt(function: Any, package: Any, *, name: str) -> tuple[Any, tuple[str, ...]]:
    """Return a flat model of `package` (`keras` or `tf_keras`) that computes what a traced TensorFlow function does.

    `function` is a ConcreteFunction from one float32 tensor (batch, ...) to one tensor. Convolutions, dense layers and
    BatchNormalization take the values and names of its variables; BatchNormalization is recognized as one operation and
    in parts; a scale and an offset after a kernel are folded into kernel and bias. Also returns notes on how training
    the layers differs from training the variables.

    Raises:
        NoLayerError: the graph has operations that are not in `table.py` (the message names them), or outputs on random
            inputs (0 to 1, -1 to 1) differ by more than 1e-4 of the largest.
    """
    given = function.inputs[0]  # the variables follow
    if given.dtype.name != "float32" or not given.shape.rank or given.shape.rank < 2:
        raise NoLayerError(f"its input is {given.dtype.name} of shape {given.shape}; expected float32 (batch, ...)")
    graph = Frozen(function)
    program = read(graph)
    fuse(program, graph)
    if not any(layer.weights for layer in program.layers):
        raise NoLayerError("it has no weights that a layer could hold")
    model = build(program, package, given.shape[1:], name)
    batch = given.shape[0]
    check_equal(model, function, batch)
    last = graph.source(graph.output).op
    if last.type in _SQUASHING:
        # Outputs near 0 and 1 reveal little about their inputs.
        before = package.Model(model.inputs[0], model.layers[-1].input)
        check_equal(before, graph.until(graph.source(last.inputs[0])), batch)
    return model, _notes(program)


def _notes(program: Program) -> tuple[str, ...]:
    fixed = {v.name for layer in program.layers if not layer.weights for v in layer.variables if v.trainable}
    if not fixed:
        return ()
    return (f"training does not change {', '.join(sorted(fixed))}, which became constants of a Rescaling",)
