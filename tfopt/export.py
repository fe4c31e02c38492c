"""A trained model as a `.tflite`, proven: what was asked for is looked up in the file that was written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from tfopt.compact import compact
from tfopt.config import config
from tfopt.conversion import convert
from tfopt.errors import PromiseError, RecipeError
from tfopt.files import write_atomically
from tfopt.litert import LiteModel
from tfopt.low_bit import with_integers
from tfopt.proof import verify_promises
from tfopt.stages.promise import Promise
from tfopt.stages.integers import integers_of
from tfopt.stages.quantize import left_in_float, told_of_scales

CALIBRATION_SAMPLES = 256


@config
class Export:
    """What the `.tflite` holds.

    Attributes:
        weights: "float32", "float16" or "int8".
        activations: "float32" or "int8"; int8 needs int8 weights, and training data for the ranges unless
            the model comes from `Quantize`.
        io: what inputs and outputs hold, "float32" or "int8"; None follows the activations.
        calibration_samples: training inputs that the ranges come from (without `Quantize`).
        compact: leave out what running the file does not need, such as the names of inner tensors.
    """

    weights: Literal["float32", "float16", "int8"] = "int8"
    activations: Literal["float32", "int8"] = "int8"
    io: Literal["float32", "int8"] | None = None
    calibration_samples: PositiveInt = CALIBRATION_SAMPLES
    compact: bool = True

    def __post_init__(self) -> None:
        if self.activations == "int8" and self.weights != "int8":
            raise RecipeError(f"int8 activations need int8 weights; got {self.weights} weights.")
        if self.io == "int8" and self.activations != "int8":
            raise RecipeError("int8 inputs and outputs need int8 activations.")

    @property
    def integer_only(self) -> bool:
        return self.activations == "int8"


def export_tflite(
    model: Any,
    path: str | Path | None = None,
    *,
    weights: str = "int8",
    activations: str = "int8",
    io: str | None = None,
    representative_data: Any = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
) -> LiteModel:
    """Convert `model`, write the file atomically, open it with LiteRT and check what it holds.

    Args:
        model: a Keras 3 or tf_keras model, or what `Quantize.apply` returned, after training.
        path: the file to write; None keeps it in memory.
        weights, activations, io, calibration_samples: see `Export`.
        representative_data: training inputs for the int8 ranges: a float32 array (batch first), a tf.data of
            batches (inputs, or inputs and labels), or a `tfopt.data.Dataset`. For several inputs a list of
            arrays in their order, or a dict by name. After `Quantize` most models need none; it serves tensors
            that no trained range covers.

    Raises:
        PromiseError: the file does not hold what was asked for; the message names the tensors.
        DataError: int8 activations without representative data, or data that does not fit the inputs.
        ModelError: the converter cannot make a file of it; the message names operators that TFLite has not.
    """
    settings = Export(
        weights=weights,  # type: ignore[arg-type]
        activations=activations,  # type: ignore[arg-type]
        io=io,  # type: ignore[arg-type]
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
    """Convert `model` and check the file; returns it with notes, see `verify_promises`.

    `plain` is the flat tf_keras model whose kernels the `promises` are about.
    """
    data, notes = convert(model, settings, representative_data), list[str]()
    if settings.integer_only and (integers := integers_of(model)):
        data, notes = with_integers(data, model, integers)
    named = LiteModel(data)
    lite = LiteModel(compact(named.data)) if settings.compact else named
    in_float = left_in_float(model)
    # The file with names first, for the sake of the messages; then the one that is written.
    for file in (named, lite):
        verify_types(file, settings, in_float)
        promised = verify_promises(file, plain, promises, trained_ranges=told_of_scales(model))
    return lite, [*notes, *promised, *float_notes(named, settings, in_float)]


def verify_types(lite: LiteModel, settings: Export, in_float: Mapping[str, str] | None = None) -> None:
    """Raise `PromiseError` when the file does not hold the types that were asked for.

    Where `Quantize` left layers in float, for the reasons `in_float` by layer name, float operators are no error.
    """
    if in_float:
        return
    if settings.integer_only:
        floats = lite.float_tensors()
        if floats:
            raise PromiseError(
                f"int8 everywhere was promised, but {len(floats)} tensors of the .tflite are float: "
                f"{', '.join(floats[:5])}. Pass representative_data (training inputs), replace the layers, or export "
                'with activations="float32".'
            )
    expected = "int8" if settings.weights == "int8" else None
    # Weights on grids of their own may be smaller.
    wrong = [w.tensor for w in lite.weights() if expected and w.tensor.dtype not in (expected, "int4")]
    # The converter keeps kernels under 1,024 values in float when activations are float.
    wrong = [tensor for tensor in wrong if settings.integer_only or np.prod(tensor.shape) >= 1024]
    if wrong:
        raise PromiseError(
            f"{expected} weights were promised, but {wrong[0].name} is {wrong[0].dtype}: the converter has no "
            f"{expected} form for it."
        )


def float_notes(lite: LiteModel, settings: Export, in_float: Mapping[str, str]) -> list[str]:
    """What a reader should know of float operators in a file that was to be int8."""
    floats = set(lite.float_tensors())
    if not settings.integer_only or not floats:
        return []
    names: dict[str, None] = {}
    for op in lite.ops():
        touched = [tensor for tensor in lite.tensors() if tensor.subgraph == op.subgraph]
        used = {index for index in (*op.inputs, *op.outputs) if index >= 0}
        if op.name not in ("QUANTIZE", "DEQUANTIZE") and any(t.index in used and t.name in floats for t in touched):
            names[op.name] = None
    layers = ", ".join(f"{name} ({why})" for name, why in in_float.items())
    return [f"float operators in the file: {', '.join(names)}; left in float: {layers}"]
