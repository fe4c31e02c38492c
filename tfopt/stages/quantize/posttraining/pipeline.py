"""All of post-training quantization of weights, in order: statistics, equalization, grids, rounding, biases."""

from collections.abc import Callable, Mapping
from typing import Any

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
    ranges: str,
    rounding: str,
    bias_correction: bool,
    equalization: bool,
    batchnorm_statistics: bool,
    iterations: int,
    seed: int,
    progress: Callable[[str], None] | None,
) -> tuple[Any, dict[Key, Grid], list[str]]:
    """See `tfopt.stages.quantize.posttraining.quantize_weights`."""
    if rounding not in ROUNDINGS:
        raise RecipeError(f"Expected {' or '.join(map(repr, ROUNDINGS))} as rounding, got {rounding!r}.")
    notes: list[str] = []
    exact = model
    if batchnorm_statistics:
        exact, norms = reestimated(model, samples)
        notes.append(f"statistics from samples: {', '.join(norms) or 'no BatchNormalization takes part'}")
    if equalization:
        exact, pairs = equalized(exact)
        notes += [f"equalized: {first} -> {second}" for first, second in pairs] or ["no two layers to equalize"]
    grids = grids_of(exact, bits, ranges)
    if rounding == "nearest":
        result = rounded_to_nearest(exact, grids)
    else:
        notes += [
            f"{'/'.join(key)} to nearest: {why}" for key in grids if (why := cannot_learn(exact.get_layer(key[0])))
        ]
        result = adaptively_rounded(exact, grids, samples, iterations=iterations, seed=seed, progress=progress)
    if bias_correction:
        result = bias_corrected(result, exact, samples)
        notes.append("biases corrected")
    return result, grids, notes


def rounded_to_nearest(model: Any, grids: Mapping[Key, Grid]) -> Any:
    """A copy of a flat tf_keras model with the kernels `grids` at the nearest numbers of their grids."""
    result = clone(model)
    for key, kernel in kernels_of(result, grids).items():
        kernel.variable.assign(grids[key].values(kernel.values))
    return result
