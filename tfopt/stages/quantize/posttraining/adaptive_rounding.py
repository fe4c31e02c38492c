"""AdaRound: learn whether to round each weight up or down (Nagel et al. 2020, arXiv:2004.10568).

Rounding to nearest minimizes the error of the weights, not that of the layer's outputs: errors of weights with
correlated inputs can cancel. Layer by layer, the rounding directions are learned from about a thousand inputs, so that
the outputs stay as they were in float.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfopt.bridge import clone
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.layer_kinds import activation_of
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import Kernel
from tfopt.stages.quantize.grids import Grid, kernels_of
from tfopt.stages.quantize.posttraining.observing import count_of, inputs_of
from tfopt.stages.quantize.posttraining.patches import patches, places
from tfopt.stages.quantize.posttraining.rounding_problem import Problem, solve
from tfopt.stages.quantize.posttraining.wiring import Wiring, gain_and_offset, is_channelwise_norm

_ROWS = 16384
_NUMBERS = 2**26  # most input values kept for one layer: 256 MB
_CEILINGS = {"relu": np.inf, "relu6": 6.0}


def adaptively_rounded(
    model: Any,
    grids: Mapping[Key, Grid],
    samples: Any,
    *,
    iterations: int = 1500,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Any:
    """Return a copy of `model` with kernels rounded to `grids` so that the outputs of layers change least.

    The targets are the outputs of the layer in the float model; its inputs come from the layers already rounded. A
    BatchNormalization and a ReLU or ReLU6 after the layer count as part of it (section 3.4). Convolutions are sampled
    at random output positions. An output channel for which the learned rounding is no better there is rounded to
    nearest. So is a kernel for which `cannot_learn` gives a reason.

    Args:
        model: a flat tf_keras model in float, channels last; not changed.
        grids: the grid of each kernel to round.
        samples: typical inputs, float32 (n, ...), or a list, tuple or dict of arrays; n about 1024.
        iterations: steps of Adam per kernel, each on 2048 outputs per channel.
        seed: of the random positions.
        progress: called with a line of text for each kernel.

    Returns:
        A new model.

    Raises:
        RecipeError: the model has no kernel with one of these names.
    """
    rounded, exact, rng = clone(model), clone(model), np.random.default_rng(seed)
    wiring = Wiring(exact)
    for key, kernel in kernels_of(rounded, grids).items():
        grid, layer = grids[key], exact.get_layer(key[0])
        if why := cannot_learn(layer):
            kernel.variable.assign(grid.values(kernel.values))
            text = f"rounded to nearest: {why}"
        else:
            problem = _problem(rounded, exact, kernel, grid, wiring, samples, rng)
            integers, before, after = solve(problem, iterations)
            kernel.variable.assign(grid.of(integers.reshape(kernel.shape)))
            text = f"mean squared error {before:.3g} with rounding to nearest, {after:.3g} with learned rounding"
        if progress is not None:
            progress(f"{'/'.join(key)}: {text}")
    return rounded


def cannot_learn(layer: Any) -> str:
    """Return why the kernels of `layer` (flat tf_keras) are rounded to nearest, or "" if their rounding is learned."""
    if not facts_of(layer).is_patch_product:
        return f"rounding is not learned for {type(layer).__name__}"
    return "rounding is not learned for grouped convolutions" if getattr(layer, "groups", 1) != 1 else ""


def _problem(
    rounded: Any, exact: Any, kernel: Kernel, grid: Grid, wiring: Wiring, samples: Any, rng: np.random.Generator
) -> Problem:
    layer = exact.get_layer(kernel.owner.name)
    mine, yours = _seen(rounded, exact, layer, samples, rng)
    gain, offset, ceiling = _behind(layer, wiring)
    depthwise = facts_of(layer).family == "depthwise"
    form = (-1, *kernel.shape[-2:])  # kernel positions, input channels, outputs of each
    return Problem(
        inputs=mine,
        exact_inputs=yours,
        kernel=kernel.values.reshape(form),
        steps=np.broadcast_to(grid.steps, kernel.shape).reshape(form),
        bits=grid.bits,
        depthwise=depthwise,
        gain=gain,
        offset=offset,
        ceiling=ceiling,
        order=rng.permutation(len(mine)),
    )


def _seen(
    rounded: Any, exact: Any, layer: Any, samples: Any, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of `layer` at random positions in both models, (rows, kernel positions, input channels)."""
    width = int(np.prod([*getattr(layer, "kernel_size", ()), layer.get_input_at(0).shape[-1]]))
    rows = max(min(_ROWS, _NUMBERS // (2 * width)), 1)
    total, mine, yours = count_of(samples) * len(layer.inbound_nodes), [], []
    for pair in inputs_of((rounded, exact), layer.name, samples):
        arrays = [tensor.numpy() for tensor in pair]
        where = places(layer, arrays[0].shape, -(-rows * len(arrays[0]) // total), rng)
        mine.append(patches(layer, arrays[0], where))
        yours.append(patches(layer, arrays[1], where))
    return np.concatenate(mine), np.concatenate(yours)


def _behind(layer: Any, wiring: Wiring) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Return gain and offset per output channel, and the ceiling of the ReLU that follows.

    The ceiling is None if no ReLU follows.
    """
    bias = np.asarray(layer.bias, np.float64) if layer.use_bias else np.zeros(1)
    gain, offset = np.ones(layer.get_output_at(0).shape[-1]), bias
    follower = wiring.behind(layer)
    if activation_of(layer) != "linear":
        return gain, offset + np.zeros_like(gain), _CEILINGS.get(activation_of(layer))
    if follower is not None and is_channelwise_norm(follower):
        gain, offset = gain_and_offset(follower)
        offset, follower = offset + gain * bias, wiring.behind(follower)
    is_activation = follower is not None and facts_of(follower).family == "activation"
    return gain, offset + np.zeros_like(gain), _CEILINGS.get(activation_of(follower)) if is_activation else None
