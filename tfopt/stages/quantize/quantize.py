"""Quantize: train for int8, or for weights of fewer bits."""

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from typing_extensions import override

from tfopt.base.config import config
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.budget import Budget
from tfopt.stages.quantize.plan import BITS, Treatment
from tfopt.stages.quantize.quantization_aware import QuantizationAware
from tfopt.stages.quantize.rounding import USUAL, Precision


@config
class Quantize(QuantizationAware):
    """Train with the rounding to int8 activations, and weights of 8 bits or fewer, in the forward pass.

    Zeros and clusters that earlier stages established stay (see `quantization_aware.SCHEMES`). Clusters of a
    whole kernel get one scale for the whole kernel, so that the int8 file holds no more different values than
    the kernel.

    A rule in `layers` says for a layer: a number, so many bits for its weights; False, train it in float (the
    converter may still quantize it from representative data); "weights" or "output", round no more than that; or
    the registered name ("Package>Class") of a QuantizeConfig of your own, made known through
    `tf_keras.saving.register_keras_serializable`, which is then made without arguments.

    Attributes:
        weight_bits: of every weight of a convolution or a Dense layer, 2 to 8. A .tflite stores them in 4 bits
            where its operator can, else in 8. Clusters need 8.
        weight_steps: where the steps between weights come from: "max", the largest weight of each output channel at any
            time; "mse" or "octav", of the kernel that training begins with (`tfopt.stages.quantize.weight_ranges`);
            "learned", trained along (LSQ, Esser et al. 2020, arXiv:1902.08153); "fixed_point", one power of two for the
            whole kernel.
        fractional_bits: p of fixed-point weights round(w 2^p) / 2^p; None for as many as the largest weight allows.
        max_drop: gives every layer 4 or 8 bits, so that the accuracy falls by no more than this (0.01: one point).
        max_bytes: the same, so that the file has no more bytes than this.
    """

    weight_bits: int = Field(default=8, ge=BITS[0], le=BITS[-1])
    weight_steps: Literal["max", "mse", "octav", "learned", "fixed_point"] = "max"
    fractional_bits: int | None = None
    max_drop: float | None = Field(default=None, gt=0, lt=1)
    max_bytes: PositiveInt | None = None

    renamed: ClassVar[dict[str, str]] = {"ranges": "weight_steps"}
    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity", "clusters"})

    @property
    @override
    def budget(self) -> Budget | None:
        return Budget(self.max_drop, self.max_bytes) if self.max_drop or self.max_bytes else None

    def _precision(self, layer: Any, treatment: Treatment) -> Precision:
        if not facts_of(layer).low_bit:
            return USUAL
        return Precision(treatment.bits or self.weight_bits, self.weight_steps, self.fractional_bits)
