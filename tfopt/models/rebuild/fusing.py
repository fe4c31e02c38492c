"""Fusion of operation patterns: BatchNormalization, biases, scales in kernels, activations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_named
from tfopt.models.rebuild.frozen import Frozen
from tfopt.models.rebuild.layer import Layer, Step
from tfopt.models.rebuild.reading import Program
from tfopt.models.rebuild.weighted import batch_normalization


def fuse(program: Program, graph: Frozen) -> None:
    """Convert the channel steps in `program` to layers, and patterns of layers to the layer they form."""
    for layer in [each for each in program.layers if each.kind == "ReLU"]:
        _hard_sigmoid(program, layer, graph)
    _join_steps(program)
    for layer in [each for each in program.layers if each.kind == "Affine"]:
        program.replace([layer], _split(layer, graph))
    for layer in [each for each in program.layers if each.kind == "Affine"]:
        _settle(program, layer, graph)
    _gates(program)


def _join_steps(program: Program) -> None:
    """Merge consecutive "Affine" layers into one."""
    for layer in [each for each in program.layers if each.kind == "Affine"]:
        before = layer.inputs[0]
        if before is not None and before.kind == "Affine" and program.only_user(before) is layer:
            variables = (*before.variables, *layer.variables)
            joined = Layer("Affine", variables=variables, path=layer.path, steps=(*before.steps, *layer.steps))
            program.replace([before, layer], [joined])


def _split(layer: Layer, graph: Frozen) -> list[Layer]:
    """Return the steps of `layer` as BatchNormalization where they form one, with "Affine" layers around it."""
    found: list[Layer] = []
    steps = list(layer.steps)
    plain: list[Step] = []
    while steps:
        match = _deviation_first(steps, graph) or _mean_first(steps, graph)
        if match is None:
            plain.append(steps.pop(0))
            continue
        count, norm = match
        norm.path = layer.path
        found += [*_affine(plain, layer, graph), norm]
        steps, plain = steps[count:], []
    return [*found, *_affine(plain, layer, graph)]


def _affine(steps: list[Step], layer: Layer, graph: Frozen) -> list[Layer]:
    variables = tuple(v for step in steps if not isinstance(step.operand, float) for v in graph.variables(step.operand))
    return [Layer("Affine", variables=variables, path=layer.path, steps=tuple(steps))] if steps else []


def _deviation_first(steps: Sequence[Step], graph: Frozen) -> tuple[int, Layer] | None:
    """Match x * (gamma / deviation) + (beta - mean * gamma / deviation), as `tf.nn.batch_normalization` writes it."""
    if [step.how for step in steps[:2]] != ["mul", "add"] or not _whole(*steps[:2]):
        return None
    scale, total = steps[0].operand, steps[1].operand
    shift = graph.source(total).op
    spread = _inverse_deviation(scale, graph)
    if spread is None:
        return None
    gamma, variance, epsilon = spread
    beta, product = (shift.inputs[0], shift.inputs[1]) if shift.type == "Sub" else (None, total)
    mean = _negative_factor(product, scale, graph) if beta is None else _factor(product, scale, graph)
    if mean is None:
        return None
    return _norm(2, graph, gamma, beta, mean, variance, epsilon)


def _mean_first(steps: Sequence[Step], graph: Frozen) -> tuple[int, Layer] | None:
    """Match (x - mean) / deviation, then * gamma and + beta if they follow."""
    if len(steps) < 2 or steps[0].how != "sub" or steps[1].how not in ("mul", "div") or not _whole(*steps[:2]):
        return None
    spread = (_inverse_deviation if steps[1].how == "mul" else _deviation)(steps[1].operand, graph)
    if spread is None:
        return None
    gamma, variance, epsilon = spread
    beta, count = None, 2
    if gamma is None and len(steps) > count and steps[count].how == "mul" and _whole(steps[count]):
        gamma, count = steps[count].operand, count + 1
    if len(steps) > count and steps[count].how == "add" and _whole(steps[count]):
        beta, count = steps[count].operand, count + 1
    return _norm(count, graph, gamma, beta, steps[0].operand, variance, epsilon)


def _whole(*steps: Step) -> bool:
    """Return whether each of `steps` has a number for every channel."""
    return all(not isinstance(step.operand, float) and step.operand.shape.num_elements() != 1 for step in steps)


def _norm(
    count: int, graph: Frozen, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float
) -> tuple[int, Layer] | None:
    sizes = {tensor.shape.num_elements() for tensor in (gamma, beta, mean, variance) if tensor is not None}
    if len(sizes) != 1 or None in sizes:
        return None
    return count, batch_normalization(graph, gamma, beta, mean, variance, epsilon)


def _inverse_deviation(tensor: Any, graph: Frozen) -> tuple[Any, Any, float] | None:
    """Return (gamma or None, variance, epsilon) if `tensor` is gamma / sqrt(variance + epsilon)."""
    operation = graph.source(tensor).op
    if operation.type == "Rsqrt":
        return _variance(operation.inputs[0], graph)
    if operation.type != "Mul":
        return None
    for one, other in (operation.inputs, operation.inputs[::-1]):
        inner = graph.source(one).op
        if inner.type == "Rsqrt" and (found := _variance(inner.inputs[0], graph)):
            return other, found[1], found[2]
    return None


def _deviation(tensor: Any, graph: Frozen) -> tuple[Any, Any, float] | None:
    operation = graph.source(tensor).op
    return _variance(operation.inputs[0], graph) if operation.type == "Sqrt" else None


def _variance(tensor: Any, graph: Frozen) -> tuple[None, Any, float] | None:
    """Return (None, variance, epsilon) if `tensor` is their sum."""
    operation = graph.source(tensor).op
    if operation.type not in ("Add", "AddV2"):
        return None
    variance, epsilon = operation.inputs
    if graph.value(epsilon).size != 1:
        return None
    return None, variance, float(graph.value(epsilon).item())


def _factor(product: Any, scale: Any, graph: Frozen) -> Any:
    """Return m if `product` is m * scale, else None."""
    operation = graph.source(product).op
    if operation.type != "Mul":
        return None
    for one, other in (operation.inputs, operation.inputs[::-1]):
        if graph.same(other, scale):
            return one
    return None


def _negative_factor(product: Any, scale: Any, graph: Frozen) -> Any:
    """Return m if `product` is -m * scale, else None."""
    negative = _factor(product, scale, graph)
    operation = graph.source(negative if negative is not None else product).op
    if operation.type != "Neg":
        return None
    return operation.inputs[0] if negative is not None else _factor(operation.inputs[0], scale, graph)


def _settle(program: Program, layer: Layer, graph: Frozen) -> None:
    """Fold an "Affine" into the preceding kernel and bias, make it a Rescaling, or drop it if it is the identity."""
    scale, offset = _numbers(layer.steps, graph)
    if np.all(scale == 1) and np.all(offset == 0):
        program.replace([layer], [])
        return
    before = layer.inputs[0]
    if before is not None and facts_named(before.kind).is_patch_product and program.only_user(before) is layer:
        program.replace([before, layer], [_with_steps(before, layer, scale, offset)])
        return
    config = {"scale": scale.astype("float32").tolist(), "offset": offset.astype("float32").tolist()}
    program.replace([layer], [Layer("Rescaling", config, variables=layer.variables, path=layer.path)])


def _numbers(steps: Sequence[Step], graph: Frozen) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset) of all `steps` combined, in float64."""
    scale, offset = np.ones(()), np.zeros(())
    for step in steps:
        number = step.operand if isinstance(step.operand, float) else graph.value(step.operand)
        value = np.asarray(number, np.float64)
        value = value.reshape(()) if value.size == 1 else value.ravel()
        if step.how in ("mul", "div"):
            factor = value if step.how == "mul" else 1 / value
            scale, offset = scale * factor, offset * factor
        else:
            offset = offset + (value if step.how == "add" else -value)
    return scale, offset


def _with_steps(layer: Layer, steps: Layer, scale: np.ndarray, offset: np.ndarray) -> Layer:
    """Return `layer`, a convolution or Dense, followed by x * scale + offset on its output channels."""
    kernel, *bias = layer.weights
    channels = kernel.shape[2] * kernel.shape[3] if facts_named(layer.kind).family == "depthwise" else kernel.shape[-1]
    scale, offset = np.broadcast_to(scale, channels), np.broadcast_to(offset, channels)
    if np.any(scale != 1):
        shape = kernel.shape[2:] if facts_named(layer.kind).family == "depthwise" else (channels,)
        kernel = (kernel * scale.reshape(shape)).astype("float32")
    old = bias[0] if bias else np.zeros(channels)
    return Layer(
        layer.kind,
        {**layer.config, "use_bias": True},
        [kernel, (old * scale + offset).astype("float32")],
        (*layer.variables, *steps.variables),
        path=layer.path,
    )


def _hard_sigmoid(program: Program, relu: Layer, graph: Frozen) -> None:
    """Fuse relu6(x + 3) / 6 into one layer."""
    before, behind = relu.inputs[0], program.only_user(relu)
    if relu.config != {"max_value": 6.0} or before is None or behind is None or program.only_user(before) is not relu:
        return
    if not before.kind == behind.kind == "Affine" or any(map(_whole, (*before.steps, *behind.steps))):
        return
    shift, sixth = (_numbers(each.steps, graph) for each in (before, behind))
    if shift[0] == 1 and shift[1] == 3 and np.isclose(sixth[0], 1 / 6) and sixth[1] == 0:
        fused = Layer("Activation", {"activation": "hard_sigmoid"}, path=behind.path)
        program.replace([before, relu, behind], [fused])


def _gates(program: Program) -> None:
    """Fuse x * sigmoid(x) and x * hard_sigmoid(x) into one layer each."""
    for layer in [each for each in program.layers if each.kind == "Multiply"]:
        for gate, x in (layer.inputs, layer.inputs[::-1]):
            if gate is None or gate.inputs != [x] or program.only_user(gate) is not layer:
                continue
            name = gate.config.get("activation")
            if name in ("sigmoid", "hard_sigmoid"):
                activation = "silu" if name == "sigmoid" else "hard_silu"
                program.replace([gate, layer], [Layer("Activation", {"activation": activation}, path=layer.path)])
                break
