"""The way from a traced function to a native model: freeze, read, fuse, build, compare."""

from typing import Any

from tfopt.models.rebuild.build import build, check_equal
from tfopt.models.rebuild.frozen import Frozen, NoLayerError
from tfopt.models.rebuild.fusing import fuse
from tfopt.models.rebuild.reading import Program, read

_SQUASHING = ("Softmax", "Sigmoid", "Tanh")


def rebuilt(function: Any, package: Any, *, name: str) -> tuple[Any, tuple[str, ...]]:
    """A flat model of `package` (`keras` or `tf_keras`) that computes what a traced TensorFlow function does.

    `function` is a ConcreteFunction of one float32 tensor (batch, ...) that gives one tensor. Convolutions, dense
    layers and BatchNormalization get the values of its variables and the names of these; BatchNormalization is
    recognised in one operation and in its parts; a scale and an offset behind a kernel go into kernel and bias.
    Returned with notes on what training the layers will not do as training the variables would.

    Raises NoLayerError, naming what stands in the way, for a graph with other operations than those in `table.py`,
    and where outputs on random inputs (0 to 1, -1 to 1) are not equal to 1e-4 of the largest.
    """
    given = function.inputs[0]  # what follows are its variables
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
        # Outputs near 0 and 1 say little about what went in.
        before = package.Model(model.inputs[0], model.layers[-1].input)
        check_equal(before, graph.until(graph.source(last.inputs[0])), batch)
    return model, _notes(program)


def _notes(program: Program) -> tuple[str, ...]:
    fixed = {v.name for layer in program.layers if not layer.weights for v in layer.variables if v.trainable}
    if not fixed:
        return ()
    return (f"training does not change what the module holds as {', '.join(sorted(fixed))}: numbers in a Rescaling",)
