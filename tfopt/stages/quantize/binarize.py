"""Binarize: train weights with two or three values, and int8 activations."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from typing_extensions import override

from tfopt.base.config import config
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.rules import Setting
from tfopt.stages.kernels.table import has_kernel
from tfopt.stages.quantize.plan import Treatment
from tfopt.stages.quantize.quantization_aware import QuantizationAware
from tfopt.stages.quantize.rounding import USUAL, Precision


@config
class Binarize(QuantizationAware):
    """Use weights -a, a or -a, 0, a in the forward pass; gradients pass straight through to the latent weights.

    The file stores them as 4-bit integers -1, 0, 1 if the operator supports it, else as 8-bit ones, with a scale per
    output channel; the full saving shows only when the file is packed or deflated. Layers with little to save and much
    to lose keep 8 bits: the first and last layers with weights, and depthwise layers.

    A rule in `layers` can set True, to use these values; 8, to keep 8 bits; or any setting of `Quantize`.

    Attributes:
        scheme: "xnor", where a is the mean absolute weight of each output channel (Rastegari et al. 2016,
            arXiv:1603.05279); "binary_connect", with one a per kernel (Courbariaux et al. 2015, arXiv:1511.00363);
            "ternary", where small weights become zero (Li et al. 2016, arXiv:1605.04711).
        spare_ends: keep 8 bits in the first and last layers with weights, as all three papers do.

    Examples:
        >>> stage = tfopt.Binarize(scheme="ternary", epochs=10)
        >>> from tfopt import bridge
        >>> for layer, decision in stage.decisions(bridge.to_tf_keras(model)).items():
        ...     print(layer, decision.does, sep=": ")
        first: int8 weights per channel, int8 output
        second: 2-bit weights per channel, ternary, int8 output
        global_average_pooling2d...: int8 output
        head: int8 weights per channel, int8 before its activation
    """

    scheme: Literal["xnor", "binary_connect", "ternary"] = "ternary"
    spare_ends: bool = True

    preserves: ClassVar[frozenset[str]] = frozenset()

    def _usual_settings(self, layers: Sequence[Any]) -> dict[str, Setting]:
        ends = [layer.name for layer in layers if has_kernel(layer)]
        kept = {ends[0], ends[-1]} if ends and self.spare_ends else set()
        return {layer.name: 8 if layer.name in kept else True for layer in layers}

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        return [*super().notes(model, keep), *self._said_of_nothing(model)]

    @override
    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        for said in self._said_of_nothing(flat_model):
            warnings.warn(said, stacklevel=3)
        return super()._wrap(flat_model, steps, keep)

    def _said_of_nothing(self, flat_model: Any) -> list[str]:
        """Return a line if no layer gets two or three values."""
        by_name, plan = {layer.name: layer for layer in flat_model.layers}, self._plan(flat_model)
        if not all(self._keeps(by_name[name], treatment) for name, treatment in plan.items()):
            return []
        advice = " Set spare_ends=False to include the first and the last" if self.spare_ends else ""
        return [f"Binarize finds no layer for two or three values in '{flat_model.name}': all keep 8 bits.{advice}"]

    def _keeps(self, layer: Any, treatment: Treatment) -> bool:
        """Return whether the weights of `layer` stay as `Quantize` would have them."""
        return not treatment.config and (not treatment.weights or self._precision(layer, treatment).usual)

    def _precision(self, layer: Any, treatment: Treatment) -> Precision:
        facts = facts_of(layer)
        if not facts.low_bit or facts.family == "depthwise":
            return USUAL
        return Precision(2, self.scheme) if treatment.bits is None else Precision(treatment.bits)
