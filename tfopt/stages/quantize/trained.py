"""Facts about a model that was trained for quantization."""

from typing import Any

from tfopt.base.keras_compat import unwrapped
from tfopt.stages.quantize.unlike_scales import leaves_ends_in_float, places_left_in_float


def layers_left_in_float(model: Any) -> dict[str, str]:
    """Return, by layer name, why layers of a model from `Quantize.apply` are in float; {} for any other model."""
    left = {unwrapped(layer).name: layer.why for layer in model.layers if getattr(layer, "why", "")}
    return {**left, **places_left_in_float(model)}


def layers_with_trained_scales(model: Any) -> set[str]:
    """Return the layers of a model from `Quantize.apply` whose kernels keep their trained scales in the file.

    For the others (recurrent ones) the converter chooses a scale per output channel or gate.
    """
    return {
        unwrapped(layer).name
        for layer in model.layers
        if (given := getattr(layer, "_given", ())) and all(quantizer.keeps_scale() for _, _, quantizer in given)
    }


def has_float_ends(model: Any) -> bool:
    """Return whether a model from `Quantize.apply` has a float input or output: one without a range, or indices."""
    if not is_quantization_aware(model):
        return False
    rounded = [layer for layer in model.layers if getattr(layer, "quantizer_vars", None)]
    return len(rounded) < sum(tensor.dtype.is_floating for tensor in model.inputs) or leaves_ends_in_float(model)


def is_quantization_aware(model: Any) -> bool:
    """Return whether `model` came from `Quantize.apply` (or TF-MOT's `quantize_apply`)."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)
