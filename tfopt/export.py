"""A trained model as a `.tflite`, proven: what was asked for is looked up in the file that was written."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from tfopt import bridge
from tfopt.compact import compact
from tfopt.config import config
from tfopt.errors import DataError, PromiseError, RecipeError
from tfopt.files import write_atomically
from tfopt.litert import LiteModel
from tfopt.proof import verify_promises
from tfopt.quiet import native_noise_held
from tfopt.stages.promise import Promise

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
            batches (inputs, or inputs and labels), or a `tfopt.data.Dataset`. After `Quantize` most models need
            none; it serves tensors that no trained range covers.

    Raises:
        PromiseError: the file does not hold what was asked for; the message names the tensors.
        DataError: int8 activations without representative data.
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
    named = LiteModel(convert(model, settings, representative_data))
    lite = LiteModel(compact(named.data)) if settings.compact else named
    notes: list[str] = []
    # The file with names first, for the sake of the messages; then the one that is written.
    for file in (named, lite):
        verify_types(file, settings)
        notes = verify_promises(file, plain, promises, trained_ranges=is_quantization_aware(model))
    return lite, notes


def is_quantization_aware(model: Any) -> bool:
    """True for a model that `Quantize.apply` (or TF-MOT's `quantize_apply`) returned."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)


def convert(model: Any, settings: Export, representative_data: Any = None) -> bytes:
    """The bytes of the `.tflite`, unchecked."""
    import tensorflow as tf

    legacy = model if is_quantization_aware(model) else bridge.to_tf_keras(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(legacy)
    if settings.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings.integer_only and (settings.io or "int8") == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if settings.integer_only and (representative_data is not None or not is_quantization_aware(model)):
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = _representative(representative_data, settings.calibration_samples)
    with warnings.catch_warnings(), native_noise_held():
        warnings.simplefilter("ignore")  # about statistics for inputs, which `Quantize` has trained
        return bytes(converter.convert())


def _representative(data: Any, number: int) -> Any:
    """A generator function of single samples, as the converter wants them."""
    if data is None:
        raise DataError(
            "int8 activations need training inputs for their ranges: pass representative_data=..., or train the "
            'model with Quantize, or choose activations="float32".'
        )
    samples = _samples(data, number)

    def generate() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample[np.newaxis]]

    return generate


def _samples(data: Any, number: int) -> np.ndarray:
    if hasattr(data, "representative"):
        return np.asarray(data.representative(number), np.float32)
    if hasattr(data, "as_numpy_iterator"):
        batches: list[np.ndarray] = []
        for element in data.as_numpy_iterator():
            batches.append(element[0] if isinstance(element, tuple) else element)
            if sum(len(batch) for batch in batches) >= number:
                break
        return np.concatenate(batches)[:number].astype(np.float32)
    return np.asarray(data, np.float32)[:number]


def verify_types(lite: LiteModel, settings: Export) -> None:
    """Raise `PromiseError` when the file does not hold the types that were asked for."""
    if settings.integer_only:
        floats = lite.float_tensors()
        if floats:
            raise PromiseError(
                f"int8 everywhere was promised, but {len(floats)} tensors of the .tflite are float: "
                f"{', '.join(floats[:5])}. Pass representative_data (training inputs), replace the layers, or export "
                'with activations="float32".'
            )
    expected = "int8" if settings.weights == "int8" else None
    wrong = [w.tensor for w in lite.weights() if expected and w.tensor.dtype != expected]
    # The converter keeps kernels under 1,024 values in float when activations are float.
    wrong = [tensor for tensor in wrong if settings.integer_only or np.prod(tensor.shape) >= 1024]
    if wrong:
        raise PromiseError(
            f"{expected} weights were promised, but {wrong[0].name} is {wrong[0].dtype}: the converter has no "
            f"{expected} form for it."
        )
