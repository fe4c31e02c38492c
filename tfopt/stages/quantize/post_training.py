"""PostTraining: quantize weights to 8 bits or fewer without training, from a few hundred unlabeled samples."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base.annotations import annotate, annotations, trained_model
from tfopt.base.config import config
from tfopt.errors import RecipeError
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import map_leaves
from tfopt.stages.budget import Budget
from tfopt.stages.kernels.choice import Decision, decisions_on_kernels
from tfopt.stages.kernels.rules import Key, choose
from tfopt.stages.kernels.table import kernels, kernels_by_key
from tfopt.stages.quantize.integers import Integers, remember_integers
from tfopt.stages.quantize.plan import BITS
from tfopt.stages.stage import Stage


@config
class PostTraining(Stage):
    """Round the weights of convolutions and Dense layers so that the outputs change as little as possible.

    Activation ranges come from representative data when the file is written. Nothing is trained: `epochs` is 0. A rule
    in `layers` can set a number, the bits of the layer's weights, or False, to leave them to the converter (8 bits).

    Attributes:
        weight_bits: bits per weight, 2 to 8. A .tflite stores them in 4 bits if the operator supports it, else in 8.
        weight_steps: how the steps between weights are chosen: "max", "mse" or "octav" (see `weight_ranges`).
        rounding: "adaptive" (AdaRound, Nagel et al. 2020, arXiv:2004.10568) or "nearest".
        bias_correction: subtract the mean error of each channel from the biases (Nagel et al. 2019, arXiv:1906.04721).
        equalization: equalize the weight ranges of neighboring layers first (same paper).
        batchnorm_statistics: before equalization, recompute the means and variances of BatchNormalization from the
            samples (PreciseBN: Wu and Johnson 2021, arXiv:2105.07576). Useful if training augmented its images; wrong
            if layers were fine-tuned around the statistics of other data.
        calibration_samples: number of training inputs used for all of this.
        iterations: of adaptive rounding, per kernel.
        seed: of adaptive rounding. None: the seed of the recipe's training, or 0 if applied by hand.
        max_drop: choose 4 or 8 bits per layer so that accuracy drops by at most this much (0.01 is one point).
        max_bytes: choose 4 or 8 bits per layer so that the file has at most this many bytes.

    Examples:
        >>> stage = tfopt.PostTraining(weight_bits=4, rounding="nearest")
        >>> result = tfopt.optimize(model, stage, data, quiet=True)
        >>> bool(np.unique(result.model.get_layer("second").kernel.numpy()[..., 0]).size <= 15)
        True
    """

    epochs: int = Field(default=0, ge=0, le=0)
    weight_bits: int = Field(default=8, ge=BITS[0], le=BITS[-1])
    weight_steps: Literal["max", "mse", "octav"] = "mse"
    rounding: Literal["nearest", "adaptive"] = "adaptive"
    bias_correction: bool = True
    equalization: bool = False
    batchnorm_statistics: bool = False
    calibration_samples: PositiveInt = 1024
    iterations: PositiveInt = 2000
    seed: int | None = Field(default=None, ge=0)
    max_drop: float | None = Field(default=None, gt=0, lt=1)
    max_bytes: PositiveInt | None = None

    renamed: ClassVar[dict[str, str]] = {"ranges": "weight_steps"}
    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})
    last: ClassVar[bool] = True

    @property
    @override
    def samples_wanted(self) -> int:
        return self.calibration_samples

    @property
    @override
    def budget(self) -> Budget | None:
        return Budget(self.max_drop, self.max_bytes) if self.max_drop or self.max_bytes else None

    @override
    def for_dry_run(self) -> "PostTraining":
        # Rounding to nearest quickly produces the same file, except for the numbers.
        return dataclasses.replace(self, rounding="nearest")

    def calibrate(self, model: Any, inputs: np.ndarray, *, progress: Callable[[str], None] | None = None) -> None:
        """Quantize the weights of `model`, which `apply` returned, in place, using `inputs` (float32, batch first)."""
        from tfopt.stages.quantize.posttraining.pipeline import quantize_weights

        model = trained_model(model)
        self._origin(model)  # raises for one that `apply` did not return
        inputs = bridge.by_valid_names(model, inputs)
        bits = self._bits(model)
        rounded, grids, notes = quantize_weights(
            model,
            bits,
            map_leaves(lambda array: np.asarray(array)[: self.calibration_samples], inputs),
            weight_steps=self.weight_steps,
            rounding=self.rounding,
            bias_correction=self.bias_correction,
            equalization=self.equalization,
            batchnorm_statistics=self.batchnorm_statistics,
            iterations=self.iterations,
            seed=self.seed or 0,
            progress=progress,
        )
        model.set_weights(rounded.get_weights())
        known = kernels_by_key(rounded.layers)
        found = {key: Integers(grid.bits, grid.integers(known[key].values)) for key, grid in grids.items()}
        remember_integers(model, found)
        annotate(model, summary=tuple(notes))

    @override
    def summary(self, model: Any) -> list[str]:
        return list(annotations(model).summary)

    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Return what happens to each layer of `model`, by layer name."""
        del keep
        bits = self._bits(model)
        does = {
            key: f"{number}-bit weights, {self.weight_steps} steps, {self.rounding}" for key, number in bits.items()
        }
        why = dict.fromkeys(kernels_by_key(model.layers), "left to the converter: 8 bits")
        return decisions_on_kernels(model, does, why)

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps, keep
        self._bits(flat_model)  # raises for a wrong rule
        return flat_model

    def _bits(self, model: Any) -> dict[Key, int]:
        """Return the bits of each kernel that is rounded."""
        layers = [layer for layer in model.layers if facts_of(layer).low_bit]
        settings = choose(self.layers, layers, {layer.name: True for layer in layers})
        found = {}
        for layer in layers:
            setting = settings[layer.name]
            if setting is False:
                continue
            bits = self.weight_bits if setting is True else setting
            if bits not in BITS:
                raise RecipeError(
                    f"PostTraining has no setting {setting!r} for layer '{layer.name}'. Known: True, False, "
                    f"{BITS[0]} to {BITS[-1]} (bits of weights)."
                )
            found.update({(layer.name, kernel.name): int(bits) for kernel in kernels(layer)})
        return found
