"""Settings for the contents of a `.tflite`."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from tfopt.base.config import config
from tfopt.errors import RecipeError
from tfopt.stages.quantize.activation_ranges import ActivationRanges

CALIBRATION_SAMPLES = 256

# The types that inputs and outputs can have, by activations.
BORDERS = {"float32": ("float32",), "int8": ("int8", "uint8", "float32"), "int16": ("int16", "float32")}


@config
class Export:
    """The contents of a `.tflite`.

    | weights | activations | weight_only | |
    |---|---|---|---|
    | "float32", "float16" | "float32" | | computed in float |
    | "int8", "int4" | "float32" | False | dynamic range: activations are rounded while the file runs |
    | "int8", "int4" | "float32" | True | weights are unpacked and computed with in float |
    | "int8", "int4" | "int8", "int16" | | integers, except what `mixed` leaves in float |

    Attributes:
        weights: as stored; "int4" uses 4 bits where LiteRT supports it, mainly in Conv2D and Dense, and 8 elsewhere.
        activations: int8 and int16 need training data for the ranges, unless the model comes from `Quantize`, which
            trains for int8 weights and activations.
        weight_only: use integer weights only to save bytes.
        io: type of inputs and outputs: "float32", "int8", "uint8" or "int16"; None is that of the activations, and for
            a `Dataset` of photos "uint8", as apps feed them: a pixel goes in as it is.
        sparse: leave zeros out of the file (EXPERIMENTAL_SPARSITY) in kernels that have enough of them. LiteRT must be
            able to run the file, which is tested. Not for int4 weights and weight_only.
        calibration_samples: number of training inputs for the activation ranges (without `Quantize`).
        activation_ranges: of int8 activations: "max", the extremes of those samples; "mse", the range with the least
            squared error of rounding and clipping, so that rare extremes do not cost precision elsewhere.
        batch: "static" makes the file for one sample at a time, or for the batch size that the model's Input has: fewer
            operators, since no shape is computed, and BatchNormalization is folded into more layers. "dynamic" leaves
            the batch free. `LiteModel` takes any number of samples in both cases.
        compact: leave out what running the file does not need, such as the names of inner tensors.
        max_noise: the most noise of an output, or of one of its channels, as a share of its variance; the fewest
            operators of an integer file stay in float for it, and a note lists them. None is the limit of
            docs/export.md, for which operators stay in float only if `mixed` allows it.
        mixed: leave operators, inputs and outputs (unless `io` names their type) in float where integers would break
            that limit, and operators that have no integer form, such as SIN; False makes it an error.
        allow_drift: make a note, not an error, of outputs that differ from the model's by more than files of
            these weights may (docs/export.md).

    Raises:
        RecipeError: settings contradict each other.

    Examples:
        >>> tfopt.Export()  # integers throughout
        Export(weights='int8', activations='int8', ...)
        >>> dynamic = tfopt.Export(weights="int8", activations="float32")
        >>> recipe = tfopt.Recipe(stages=(tfopt.Prune(),), export=dynamic)
    """

    weights: Literal["float32", "float16", "int8", "int4"] = "int8"
    activations: Literal["float32", "int8", "int16"] = "int8"
    weight_only: bool = False
    io: Literal["float32", "int8", "uint8", "int16"] | None = None
    sparse: bool = False
    calibration_samples: PositiveInt = CALIBRATION_SAMPLES
    activation_ranges: ActivationRanges = "max"
    batch: Literal["static", "dynamic"] = "static"
    compact: bool = True
    max_noise: PositiveFloat | None = None
    mixed: bool = True
    allow_drift: bool = False

    renamed: ClassVar[dict[str, str]] = {"ranges": "activation_ranges"}

    def __post_init__(self) -> None:
        weights, activations = self.weights, self.activations
        if self.integer_only and weights not in ("int8", "int4"):
            raise RecipeError(
                f"{activations} activations need int8 or int4 weights; got {weights} weights. Set "
                'activations="float32" for a file that computes in float.'
            )
        if self.weight_only and (self.integer_only or weights not in ("int8", "int4")):
            raise RecipeError(
                f"weight_only needs int8 or int4 weights and float32 activations; got {weights} weights and "
                f"{activations} activations."
            )
        if self.border not in BORDERS[activations]:
            needed = "int16" if self.border == "int16" else "int8"
            raise RecipeError(
                f"{self.border} inputs and outputs need {needed} activations; with {activations} activations they can "
                f"be {' or '.join(BORDERS[activations])}."
            )
        if self.sparse and self.by_edge_quantizer:
            raise RecipeError(
                "sparse=True needs float32, float16 or int8 weights that the converter stores; got "
                f"{'weight_only' if self.weight_only else 'int4 weights'}."
            )

        if self.activation_ranges != "max" and (self.activations != "int8" or self.by_edge_quantizer):
            raise RecipeError(
                f'activation_ranges="{self.activation_ranges}" needs int8 weights and activations; got {weights} '
                f"weights and {activations} activations."
            )

        if self.max_noise is not None and not self.may_mix:
            raise RecipeError(
                f"max_noise needs int8 weights, integer activations, mixed=True and sparse=False; got {weights} "
                f"weights, {activations} activations, mixed={self.mixed} and sparse={self.sparse}."
            )

    @property
    def may_mix(self) -> bool:
        """Whether operators may stay in float for the sake of the outputs."""
        return self.mixed and self.integer_only and self.weights == "int8" and not self.sparse

    @property
    def integer_only(self) -> bool:
        """Whether operators compute with integers, except those that `mixed` leaves in float."""
        return self.activations != "float32"

    @property
    def border(self) -> str:
        """The type of inputs and outputs."""
        return self.io or self.activations

    @property
    def by_edge_quantizer(self) -> bool:
        """Whether litert-quantizer must make the file, since the converter cannot."""
        return self.weight_only or self.weights == "int4"


# How the rows before the last one are measured: as a float file, so that each shows its own step alone.
FLOAT = Export(weights="float32", activations="float32")
