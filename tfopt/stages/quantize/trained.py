"""What is known of a model that was trained for quantization."""

from typing import Any

from tfopt.base.annotations import annotations
from tfopt.base.keras_compat import unwrapped


def layers_left_in_float(model: Any) -> dict[str, str]:
    """Why, by layer name, layers of what `Quantize.apply` returned are not quantized; {} for any other model."""
    return dict(annotations(model).layers_left_in_float)


def layers_with_trained_scales(model: Any) -> set[str]:
    """Layers of what `Quantize.apply` returned whose kernels have, in the file too, the scales they were trained with.

    In the others, recurrent ones, the converter chooses a scale for each output channel or gate.
    """
    return {
        unwrapped(layer).name
        for layer in model.layers
        if (given := getattr(layer, "_given", ())) and all(quantizer.keeps_scale() for _, _, quantizer in given)
    }


def is_quantization_aware(model: Any) -> bool:
    """True for a model that `Quantize.apply` (or TF-MOT's `quantize_apply`) returned."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)
