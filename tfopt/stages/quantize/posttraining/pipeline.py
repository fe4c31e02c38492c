"""Post-training quantization of weights, in order: statistics, equalization, grids, rounding, biases."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from tfopt.bridge import clone
from tfopt.errors import RecipeError
from tfopt.stages.kernels.rules import Key
from tfopt.stages.quantize.grids import Grid, grids_of, kernels_of
from tfopt.stages.quantize.posttraining.adaptive_rounding import adaptively_rounded, cannot_learn
from tfopt.stages.quantize.posttraining.batchnorm import reestimated
from tfopt.stages.quantize.posttraining.bias_correction import bias_corrected
from tfopt.stages.quantize.posttraining.equalization import equalized

ROUNDINGS = ("nearest", "adaptive")


def quantize_weights(
    model: Any,
    bits: Mapping[Key, int],
    samples: Any,
    *,
    weight_steps: Literal["max", "mse", "octav"] = "mse",
    rounding: Literal["nearest", "adaptive"] = "nearest",
    bias_correction: bool = True,
    equalization: bool = True,
    batchnorm_statistics: bool = False,
    iterations: int = 1500,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Any, dict[Key, Grid], list[str]]:
    """Return a copy of `model` with quantized kernels, made without training.

    Args:
        model: a flat tf_keras model, e.g. from `bridge.to_tf_keras`, channels last; not changed.
        bits: 2 to 8 per kernel, by (layer name, kernel name); other kernels do not change.
        samples: typical inputs, float32 (n, ...), or a list, tuple or dict of arrays, without labels. A few hundred for
            `bias_correction`, about 1024 for adaptive rounding.
        weight_steps: how the steps are chosen, see `weight_ranges.steps`.
        rounding: "nearest", or "adaptive" to learn from `samples` whether to round up or down (AdaRound).
        bias_correction: restore the mean outputs of each layer (Nagel et al. 2019, section 4.2).
        equalization: first equalize the channels between pairs of layers (section 4.1 of the same paper).
        batchnorm_statistics: before that, recompute BatchNormalization statistics, see `batchnorm.reestimated`.
        iterations: of adaptive rounding, per kernel.
        seed: of the random positions in adaptive rounding.
        progress: called with a line of text for each kernel.

    Returns:
        The model; the grid of each kernel in `bits`, on which its values lie exactly; and a description of each step.

    Raises:
        RecipeError: a kernel that the model does not have, or unknown bits, steps or rounding.
        ModelError: a weight is not finite.
    """
    if rounding not in ROUNDINGS:
        raise RecipeError(f"Expected rounding to be {' or '.join(map(repr, ROUNDINGS))}; got {rounding!r}.")
    notes: list[str] = []
    exact = model
    if batchnorm_statistics:
        exact, norms = reestimated(model, samples)
        notes.append(f"statistics recomputed: {', '.join(norms) or 'none, no BatchNormalization qualifies'}")
    if equalization:
        exact, pairs = equalized(exact)
        notes += [f"equalized: {first} -> {second}" for first, second in pairs] or ["equalized: no pair of layers"]
    grids = grids_of(exact, bits, weight_steps)
    if rounding == "nearest":
        result = rounded_to_nearest(exact, grids)
    else:
        notes += [
            f"{'/'.join(key)} rounded to nearest: {why}"
            for key in grids
            if (why := cannot_learn(exact.get_layer(key[0])))
        ]
        result = adaptively_rounded(exact, grids, samples, iterations=iterations, seed=seed, progress=progress)
    if bias_correction:
        result = bias_corrected(result, exact, samples)
        notes.append("biases corrected")
    return result, grids, notes


def rounded_to_nearest(model: Any, grids: Mapping[Key, Grid]) -> Any:
    """Return a copy of a flat tf_keras model with kernels rounded to the nearest values of their `grids`."""
    result = clone(model)
    for key, kernel in kernels_of(result, grids).items():
        kernel.variable.assign(grids[key].values(kernel.values))
    return result
