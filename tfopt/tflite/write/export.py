"""A trained model as a `.tflite`, proven: what was asked for is looked up in the file that was written."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from tfopt import bridge
from tfopt.base.config import config
from tfopt.base.files import write_atomically
from tfopt.base.keras_compat import inner
from tfopt.errors import RecipeError
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.quantize.activation_ranges import ActivationRanges
from tfopt.stages.quantize.integers import integers_of
from tfopt.stages.quantize.quantization_aware import left_in_float, told_of_scales
from tfopt.tflite.prove.promises import verify_promises
from tfopt.tflite.prove.types import verify_types
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.read.metadata import with_labels
from tfopt.tflite.write.calibration import Calibration
from tfopt.tflite.write.compact import compact
from tfopt.tflite.write.converter import convert, is_quantization_aware, opened
from tfopt.tflite.write.low_bit_weights import with_integers

CALIBRATION_SAMPLES = 256
# What inputs and outputs can hold, by activations.
BORDERS = {"float32": ("float32",), "int8": ("int8", "uint8", "float32"), "int16": ("int16", "float32")}


@config
class Export:
    """What the `.tflite` holds.

    | weights | activations | weight_only | |
    |---|---|---|---|
    | "float32", "float16" | "float32" | | computed in float |
    | "int8", "int4" | "float32" | False | dynamic range: activations are rounded while the file runs |
    | "int8", "int4" | "float32" | True | weights are unpacked, and computed with in float |
    | "int8", "int4" | "int8", "int16" | | integers everywhere |

    Attributes:
        weights: as stored; "int4" where LiteRT has operators for it, in Conv2D and Dense above all, "int8" elsewhere.
        activations: int8 and int16 need training data for the ranges, unless the model comes from `Quantize`, which
            trains for int8 weights and activations.
        weight_only: integer weights for the sake of bytes alone.
        io: what inputs and outputs hold: "float32", "int8", "uint8" or "int16"; None follows the activations.
        sparse: leave zeros out of the file (EXPERIMENTAL_SPARSITY), in kernels that have enough of them; for files that
            LiteRT then still runs, which is tried. Not for int4 weights and weight_only.
        calibration_samples: training inputs that the ranges come from (without `Quantize`).
        ranges: how far int8 activations reach: "max", to the extremes that those samples show; "mse", where the squared
            error of rounding and clipping is least, so that rare extremes do not cost the others their steps.
        compact: leave out what running the file does not need, such as the names of inner tensors.

    Raises `RecipeError` for what contradicts itself.
    """

    weights: Literal["float32", "float16", "int8", "int4"] = "int8"
    activations: Literal["float32", "int8", "int16"] = "int8"
    weight_only: bool = False
    io: Literal["float32", "int8", "uint8", "int16"] | None = None
    sparse: bool = False
    calibration_samples: PositiveInt = CALIBRATION_SAMPLES
    ranges: ActivationRanges = "max"
    compact: bool = True

    def __post_init__(self) -> None:
        weights, activations = self.weights, self.activations
        if self.integer_only and weights not in ("int8", "int4"):
            raise RecipeError(f"{activations} activations need int8 or int4 weights; got {weights} weights.")
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
                "sparse needs float32, float16 or int8 weights that the converter stores; got "
                f"{'weight_only' if self.weight_only else 'int4 weights'}."
            )

        if self.ranges != "max" and (self.activations != "int8" or self.by_edge_quantizer):
            raise RecipeError(
                f'ranges="{self.ranges}" needs int8 weights and activations; got {weights} weights and {activations} '
                "activations."
            )

    @property
    def integer_only(self) -> bool:
        """Whether no operator may compute in float."""
        return self.activations != "float32"

    @property
    def border(self) -> str:
        """What inputs and outputs hold."""
        return self.io or self.activations

    @property
    def by_edge_quantizer(self) -> bool:
        """Whether the converter has no form for it, but ai-edge-quantizer has."""
        return self.weight_only or self.weights == "int4"


def export_tflite(
    model: Any,
    path: str | Path | None = None,
    *,
    weights: str = "int8",
    activations: str = "int8",
    weight_only: bool = False,
    io: str | None = None,
    sparse: bool = False,
    representative_data: Any = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
) -> LiteModel:
    """Convert `model`, write the file atomically, open it with LiteRT and check what it holds.

    Args:
        model: a Keras 3 or tf_keras model, or what `Quantize.apply` returned, after training.
        path: the file to write; None keeps it in memory.
        weights, activations, weight_only, io, sparse, calibration_samples: see `Export`.
        representative_data: training inputs for int8 and int16 ranges: a float32 array (batch first), a tf.data of
            batches (inputs, or inputs and labels), or a `tfopt.data.Dataset`. For several inputs a list of
            arrays in their order, or a dict by name. After `Quantize` most models need none; it serves tensors
            that no trained range covers.

    Raises:
        RecipeError: the settings contradict each other.
        PromiseError: the file does not hold what was asked for; the message names tensors and layers.
        DataError: int8 or int16 activations without representative data, or data that does not fit the inputs.
        ModelError: the converter cannot make a file of it; the message names operators that TFLite has not.

    What is worth knowing of the file besides is in the notes of `build`.
    """
    settings = Export(
        weights=weights,  # type: ignore[arg-type]
        activations=activations,  # type: ignore[arg-type]
        weight_only=weight_only,
        io=io,  # type: ignore[arg-type]
        sparse=sparse,
        calibration_samples=calibration_samples,
    )
    lite, _ = build(model, settings, representative_data)
    if path is not None:
        write_atomically(Path(path), lite.data)
        lite = LiteModel(path)
    return lite


def build(
    model: Any,
    settings: Export,
    representative_data: Any = None,
    promises: Sequence[Promise] = (),
    plain: Any = None,
) -> tuple[LiteModel, list[str]]:
    """Convert `model` and check the file; returns it with notes, see `verify_promises` and `verify_types`.

    `plain` is the flat tf_keras model whose kernels the `promises` are about. Class names of a `Dataset` are written
    into the file. Raises what `export_tflite` does.
    """
    calibration = None
    if settings.integer_only and representative_data is not None:
        calibration = Calibration(representative_data, settings.calibration_samples)
    data, notes = convert(model, settings, calibration), list[str]()
    if settings.weights == settings.activations == "int8" and (integers := integers_of(model)):
        data, notes = with_integers(data, model, integers)
    named = opened(_labelled(data, representative_data), settings)
    lite = LiteModel(compact(named.data)) if settings.compact else named
    in_float, names = left_in_float(model), LayerNames(named, _layers(model))
    # The file with names first, for the sake of the messages; then the one that is written.
    found = verify_types(named, settings, in_float, names)
    verify_types(lite, settings, in_float, LayerNames(lite, ()))
    for file in (named, lite):
        promised = verify_promises(file, plain, promises, trained_ranges=told_of_scales(model))
    # After `Quantize`, samples serve only what it has trained no range for.
    calibrated = calibration.notes(named, names) if calibration and not is_quantization_aware(model) else []
    return lite, [*notes, *promised, *found, *calibrated]


def _layers(model: Any) -> Iterator[str]:
    """The names of the flat model's layers, looked up when they are asked for."""
    if is_quantization_aware(model):
        yield from (inner(layer).name for layer in model.layers)
    else:
        yield from (name for name, _, _ in bridge.flat_layers(model))


def _labelled(data: bytes, source: Any) -> bytes:
    """The file with the class names that `source` tells, where they are those of its only output."""
    names = getattr(source, "class_names", None)
    if not names:
        return data
    outputs = LiteModel(data).outputs
    return with_labels(data, names) if [port.shape[-1:] for port in outputs] == [(len(names),)] else data
