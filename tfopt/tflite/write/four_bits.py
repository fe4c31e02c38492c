"""Round weights to 4 bits where litert-quantizer lacks operators: TensorFlow's converter makes the file."""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from tfopt.stages import PostTraining
from tfopt.stages.quantize.integers import integers_of
from tfopt.tflite.prove.kernels import find_kernels
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration
from tfopt.tflite.write.converter import model_to_convert


def rounded_to_4_bits(model: Any, data: Any, settings: Export, wide: Collection[str] = ()) -> tuple[Any, Export]:
    """Return a flat tf_keras model whose kernels are rounded to 4 bits, and the settings for its file.

    Args:
        model: a Keras 3 or tf_keras model. It is not changed.
        data: training inputs, as for `Calibration`.
        settings: of a file with int4 weights and int8 activations.
        wide: the layers that keep 8 bits.
    """
    samples = Calibration(data, settings.calibration_samples).bind(model_to_convert(model))
    columns = [np.concatenate(column) for column in zip(*samples.batches(), strict=True)]
    stage = PostTraining(
        weight_bits=4,
        rounding="nearest",
        calibration_samples=settings.calibration_samples,
        layers=tuple((name, False) for name in sorted(wide)),
    )
    rounded = stage.apply(model_to_convert(model), steps=0)
    inputs: Any = columns[0] if len(columns) == 1 else columns
    stage.calibrate(rounded, inputs)
    return rounded, dataclasses.replace(settings, weights="int8")


def layers_in_8_bits(lite: LiteModel, rounded: Any) -> set[str]:
    """Return the layers of a model from `rounded_to_4_bits` whose kernels take 8 bits in its file."""
    places = find_kernels(lite, rounded.layers, integers_of(rounded))
    return {layer for (layer, _), place in places.items() if {part.tensor.dtype for part in place.parts} != {"int4"}}
