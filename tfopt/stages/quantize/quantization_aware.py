"""The base of stages for quantization-aware training (Jacob et al. 2017, arXiv:1712.05877), on TF-MOT's quantizers."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base.annotations import annotate, trained_model
from tfopt.base.config import config
from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides
from tfopt.errors import DataError, RecipeError
from tfopt.graph.types import flatten
from tfopt.graph.walk import walk
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.rules import Setting, choose
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.activation_ranges import set_ranges
from tfopt.stages.quantize.plan import Treatment, plan, scales_of
from tfopt.stages.quantize.quantizers import Scheme, held_weight, kernel_quantizer, structure_of
from tfopt.stages.quantize.rounding import Precision
from tfopt.stages.quantize.unlike_scales import leave_unrounded, places_left_in_float
from tfopt.stages.quantize.wrapped_model import quantized_model
from tfopt.stages.stage import Stage

# The scheme for the properties that earlier stages established, named as in TF-MOT's collaborative optimization.
SCHEMES: dict[frozenset[str], Scheme] = {
    frozenset(): Scheme("QAT", zeros=False, clusters=False),
    frozenset({"sparsity"}): Scheme("PQAT", zeros=True, clusters=False),
    frozenset({"clusters"}): Scheme("CQAT", zeros=False, clusters=True),
    frozenset({"sparsity", "clusters"}): Scheme("PCQAT", zeros=True, clusters=True),
}
CALIBRATION_BATCH = 64
KEPT_SAMPLES = 64
"""Calibration samples kept for the export, for ranges inside layers that training does not round."""

Samples = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


@config
class QuantizationAware(Stage):
    """Base of stages that train with int8 activations and weights of 8 bits or fewer in the forward pass.

    Attributes:
        calibration_samples: number of training inputs from which the activation quantizers take their initial ranges.
            TF-MOT starts at -6..6 and needs thousands of steps to forget it.
    """

    min_steps: NonNegativeInt = 100
    calibration_samples: PositiveInt = 512

    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity", "clusters"})
    last: ClassVar[bool] = True
    takes_words: ClassVar[bool] = True

    @override
    def holds_after(self, steps: int) -> int:
        return 0

    @property
    @override
    def samples_wanted(self) -> int:
        return self.calibration_samples

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        kept = f", keeps {' and '.join(sorted(keep))}" if keep else ""
        in_float = {name: t.why for name, t in self._plan(model).items() if t.in_float}
        return [f"{SCHEMES[keep].name}{kept}", *(f"left in float: {name} ({why})" for name, why in in_float.items())]

    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Return what is rounded in each layer of `model`, by layer name."""
        by_name = {layer.name: layer for layer in model.layers}
        treatments = self._plan(model)
        return {name: self._decision(by_name[name], treatment, SCHEMES[keep]) for name, treatment in treatments.items()}

    def _plan(self, flat_model: Any) -> dict[str, Treatment]:
        graph = walk(flat_model, keep_names=True)
        layers = [leaf.layer for leaf in graph.leaves]
        return plan(graph, choose(self.layers, layers, self._usual_settings(layers)))

    def _usual_settings(self, layers: Sequence[Any]) -> dict[str, Setting]:
        """Return the settings of `layers` (in calling order) for which no rule matches."""
        return {layer.name: True for layer in layers}

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps
        treatments, scheme = self._plan(flat_model), SCHEMES[keep]
        return quantized_model(
            walk(flat_model, keep_names=True),
            treatments,
            lambda layer, treatment: self._weight_quantizers(layer, treatment, scheme),
        )

    def _weight_quantizers(self, layer: Any, treatment: Treatment, scheme: Scheme) -> Overrides:
        """Return (owner, attribute, quantizer) for the kernels of a built layer; `HeldWeight` for those in float."""
        overrides: Overrides = []
        for kernel in kernels(layer):
            values, scales = kernel.values, scales_of(kernel)
            per_channel = scales.axes == (-1,)  # clusters per channel are detected in the last axis only
            structure = structure_of(values, scheme, output_channels_last=per_channel)
            if treatment.weights:
                precision = self._precision(layer, treatment)
                if structure.centroids is not None and not precision.usual:
                    raise RecipeError(
                        f"{type(self).__name__} keeps clusters only with 8 bits and weight_steps='max'; layer "
                        f"'{layer.name}' has clusters, {precision.bits} bits and "
                        f"weight_steps={precision.weight_steps!r}. Remove Cluster: few bits mean few values anyway."
                    )
                quantizer = kernel_quantizer()(scales, structure, values, precision, kernel.name)
                overrides.append((kernel.owner, kernel.attribute, quantizer))
            elif structure.mask is not None or structure.centroids is not None:
                overrides.append((kernel.owner, kernel.attribute, held_weight()(structure, values, kernel.name)))
        return overrides

    @override
    def summary(self, model: Any) -> list[str]:
        model = trained_model(model)
        return [f"left in float: {name} ({why})" for name, why in places_left_in_float(model).items()]

    @abstractmethod
    def _precision(self, layer: Any, treatment: Treatment) -> Precision:
        """Return how finely the kernels of `layer` are rounded."""

    def _decision(self, layer: Any, treatment: Treatment, scheme: Scheme) -> Decision:
        parts = [treatment.config] if treatment.config else []
        quantizers = [] if treatment.config else self._weight_quantizers(layer, treatment, scheme)
        parts += dict.fromkeys(quantizer.describe() for _, _, quantizer in quantizers)
        if treatment.before:
            parts.append("int8 before its activation")
        if treatment.inner:
            parts.append(f"int8 behind {', '.join(attribute.strip('_') for attribute in treatment.inner)}")
        if treatment.output:
            parts.append("int8 output")
        why = f"left in float: {treatment.why}" if treatment.in_float else treatment.why
        return Decision(layer.name, ", ".join(parts), why if parts or why else "nothing to round")

    def calibrate(self, model: Any, inputs: Samples, *, progress: Callable[[str], None] | None = None) -> None:
        """Initialize every activation quantizer with the range that the float model shows.

        Inputs, concatenations and outputs whose channels are too unlike for one int8 scale stay in float.

        Args:
            model: the model that `apply` returned; changed in place.
            inputs: one array, batch first, or a list or dict of arrays for several inputs.
            progress: not used.

        Raises:
            DataError: a sample is not finite in float32, so that no range holds it.
        """
        del progress
        model = trained_model(model)
        inputs = bridge.by_valid_names(model, inputs)
        arrays = [np.asarray(array)[: self.calibration_samples] for array in flatten(inputs)]
        _check_finite(arrays)
        starts = range(0, len(arrays[0]), CALIBRATION_BATCH)
        batches = [[array[start : start + CALIBRATION_BATCH] for array in arrays] for start in starts]
        given = [batch[0] if len(batch) == 1 else _like(inputs, batch) for batch in batches]
        set_ranges(model, lambda: given)
        leave_unrounded(model, lambda: given)
        kept = [array[:KEPT_SAMPLES].copy() for array in arrays]
        annotate(model, samples=kept[0] if len(kept) == 1 else _like(inputs, kept))

    @override
    def strip(self, model: Any) -> Any:
        result = super().strip(model)
        annotate(result, stripped_of=type(self).__name__)
        return result

    def _trained_weights(self, layer: Any, flat_layer: Any) -> list[np.ndarray]:
        """Return the weights as the file will store them, with kernels on their grids."""
        del flat_layer
        rounded = {
            id(weight): np.asarray(quantizer(weight, False, weights=variables))
            for weight, quantizer, variables in getattr(layer, "_weight_vars", [])
        }
        weights = getattr(layer, "own_weights", unwrapped(layer).weights)
        return [rounded.get(id(weight), np.asarray(weight)) for weight in weights]


def _check_finite(arrays: list[np.ndarray]) -> None:
    for array in arrays:
        if array.dtype.kind != "f":
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32)).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"Expected finite calibration samples; sample {int(np.argmin(finite))} has NaN, infinity or a number "
                "beyond float32. Remove or replace it."
            )


def _like(inputs: Any, batch: list[np.ndarray]) -> Any:
    return dict(zip(sorted(inputs), batch, strict=True)) if isinstance(inputs, Mapping) else batch
