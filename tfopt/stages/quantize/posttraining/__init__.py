"""Weights of a few bits without training: ranges, rounding and corrections of a trained model."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the stages import the grids from this package, so it may not import what builds on the stages
    from tfopt.stages.kernels.rules import Key
    from tfopt.stages.quantize.grids import Grid

__all__ = ["quantize_weights"]


def quantize_weights(
    model: Any,
    bits: "Mapping[Key, int]",
    samples: Any,
    *,
    ranges: Literal["max", "mse", "octav"] = "mse",
    rounding: Literal["nearest", "adaptive"] = "nearest",
    bias_correction: bool = True,
    equalization: bool = True,
    batchnorm_statistics: bool = False,
    iterations: int = 1500,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> "tuple[Any, dict[Key, Grid], list[str]]":
    """A copy of `model` with the kernels `bits` on grids of so many bits, made without training.

    Args:
        model: a flat tf_keras model, as `bridge.to_tf_keras` gives, channels last; not changed.
        bits: 2 to 8 for each kernel, by (layer name, kernel name); others stay as they are.
        samples: typical inputs as the model takes them, float32 (n, ...), or a list, tuple or dict of arrays; labels
            are not needed. Some hundred for `bias_correction`, about 1024 for adaptive rounding.
        ranges: how the steps are chosen, see `ranges.steps`.
        rounding: to the "nearest" number, or up or down as learned from `samples` ("adaptive", AdaRound).
        bias_correction: give each layer back its mean output (Nagel et al. 2019, section 4.2).
        equalization: balance the channels between two layers first (section 4.1 there).
        batchnorm_statistics: take those of BatchNormalization anew from `samples` first, see `batchnorm.reestimated`.
        iterations: of adaptive rounding, for each kernel.
        seed: of the positions that adaptive rounding looks at.
        progress: told what becomes of each kernel.

    Returns:
        The model; the grid of each kernel in `bits`, on which its values are exactly; and what was done, in words.

    Raises:
        RecipeError: a kernel that the model does not have, other bits, another range or rounding.
        ModelError: weights that are not finite.
    """
    from tfopt.stages.quantize.posttraining import pipeline

    return pipeline.quantize_weights(
        model, bits, samples, ranges=ranges, rounding=rounding, bias_correction=bias_correction,
        equalization=equalization, batchnorm_statistics=batchnorm_statistics, iterations=iterations, seed=seed,
        progress=progress,
    )  # fmt: skip
