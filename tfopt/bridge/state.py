"""The state of layers beside their weights: lookup tables, what `adapt` learned, and what training moves."""

from typing import Any

from tfopt.base.keras_compat import unwrapped


def copy(layer: Any, twin: Any) -> None:
    """Gives `twin`, made from the config of `layer` in the same Keras, its vocabulary or bin boundaries."""
    if type(layer).__name__ in ("StringLookup", "IntegerLookup", "TextVectorization"):
        vocabulary = layer.get_vocabulary(include_special_tokens=False)
        if vocabulary and twin.get_vocabulary(include_special_tokens=False) != vocabulary:
            twin.set_vocabulary(vocabulary)
    elif type(layer).__name__ == "Discretization":
        twin.bin_boundaries = layer.bin_boundaries


def moved_ids(model: Any) -> set[int]:
    """The ids of the weights that training moves: trainable ones, and the moving statistics of a BatchNorm."""
    layers = [unwrapped(layer) for layer in model._flatten_layers()]
    norms = [layer for layer in layers if hasattr(layer, "moving_mean") and hasattr(layer, "moving_variance")]
    statistics = [part for norm in norms for part in (norm.moving_mean, norm.moving_variance)]
    return {id(weight) for weight in (*model.trainable_weights, *statistics)}


def finalize(model: Any) -> None:
    """After weights were assigned: Normalization computes with a copy of its own."""
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state") and layer.weights:
            layer.finalize_state()
