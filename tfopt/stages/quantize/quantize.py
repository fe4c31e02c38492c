"""Quantize: train for int8, or for weights with fewer bits."""

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
    """Train with activations rounded to int8 and weights rounded to 8 bits or fewer in the forward pass.

    Zeros and clusters from earlier stages are kept (see `quantization_aware.SCHEMES`). A kernel clustered as a whole
    gets a single scale, so that the int8 file has no more different values than the kernel.

    A rule in `layers` can set: a number, the bits of the layer's weights; False, to train the layer in float (the
    converter may still quantize it from representative data); "weights" or "output", to round only these; or the
    registered name ("Package>Class") of your own QuantizeConfig. Register it with
    `tf_keras.saving.register_keras_serializable`; it is created without arguments.

    Attributes:
        weight_bits: bits per weight of convolutions and Dense layers, 2 to 8. A .tflite stores them in 4 bits if the
            operator supports it, else in 8. Clusters need 8.
        weight_steps: the source of the steps between weights: "max", the current largest weight of each output channel;
            "mse" or "octav", computed from the initial kernel (see `tfopt.stages.quantize.weight_ranges`); "learned",
            trained with the weights (LSQ, Esser et al. 2020, arXiv:1902.08153); "fixed_point", one power of two for the
            whole kernel.
        fractional_bits: p of fixed-point weights round(w 2^p) / 2^p; None for the most that the largest weight allows.
        max_drop: choose 4 or 8 bits per layer so that accuracy drops by at most this much (0.01 is one point).
        max_bytes: choose 4 or 8 bits per layer so that the file has at most this many bytes.

    Examples:
        In a recipe, after stages whose zeros and clusters it keeps:

        >>> stages = (tfopt.Prune(final_sparsity=0.6), tfopt.Cluster(), tfopt.Quantize(epochs=2))

        In your own `fit`; export the trained model, which has the ranges of activations:

        >>> stage = tfopt.Quantize()
        >>> quantized = stage.apply(model, steps=7 * 2)
        >>> stage.calibrate(quantized, x)
        >>> history = quantized.fit(x, y, epochs=2, verbose=0)
        >>> lite = tfopt.export_tflite(quantized, "model.tflite", representative_data=x)
        >>> {weight.tensor.dtype for weight in lite.weights()}
        {'int8'}
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
