"""Round weights to 4 bits where litert-quantizer lacks operators: TensorFlow's converter makes the file."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from tfopt.errors import PromiseError
from tfopt.stages import PostTraining
from tfopt.stages.quantize.integers import integers_of
from tfopt.tflite.prove.kernels import find_kernels
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration

Make = Callable[[Any, Export], LiteModel]
"""(model, settings) -> its file."""


def rounded_to_4_bits(flat_model: Any, data: Any, settings: Export, make: Make) -> tuple[Any, Export]:
    """Return a flat tf_keras model whose kernels are rounded to 4 bits where its file can hold them, and the settings.

    Args:
        flat_model: what `model_to_convert` returned. It is not changed.
        data: training inputs, as for `Calibration`.
        settings: of a file with int4 weights and int8 activations.
        make: to try what the file can hold.

    Raises:
        PromiseError, ModelError: there is no such file.
    """
    others = dataclasses.replace(settings, weights="int8")
    wide: set[str] = set()
    while True:
        rounded = _rounded(flat_model, data, settings, wide)
        try:
            found = _layers_in_8_bits(make(rounded, dataclasses.replace(others, compact=False)), rounded)
        except PromiseError as error:  # e.g. the converter has multiplied a kernel with a layer before it
            found = {error.layer} if error.layer else set()
            if not found - wide:
                raise
        if not found - wide:
            return rounded, others
        wide |= found  # rounding them would cost accuracy and save nothing


def _rounded(flat_model: Any, data: Any, settings: Export, wide: Collection[str]) -> Any:
    """Return the model with kernels of 4 bits, except in the layers `wide`."""
    samples = Calibration(data, settings.calibration_samples).bind(flat_model)
    columns = [np.concatenate(column) for column in zip(*samples.batches(), strict=True)]
    stage = PostTraining(
        weight_bits=4,
        rounding="nearest",
        calibration_samples=settings.calibration_samples,
        layers=tuple((name, False) for name in sorted(wide)),
    )
    rounded = stage.apply(flat_model, steps=0)
    inputs: Any = columns[0] if len(columns) == 1 else columns
    stage.calibrate(rounded, inputs)
    return rounded


def _layers_in_8_bits(lite: LiteModel, rounded: Any) -> set[str]:
    places = find_kernels(lite, rounded.layers, integers_of(rounded))
    return {layer for (layer, _), place in places.items() if {part.tensor.dtype for part in place.parts} != {"int4"}}
