"""Layer state beyond weights: lookup tables, what `adapt` learned, and what training updates."""

from typing import Any

from tfopt.base.keras_compat import unwrapped
from tfopt.graph.keras_internals import flat_layers


def copy(layer: Any, target: Any) -> None:
    """Copy the vocabulary or bin boundaries of `layer` to `target`, made from its config in the same Keras."""
    if type(layer).__name__ in ("StringLookup", "IntegerLookup", "TextVectorization"):
        vocabulary = layer.get_vocabulary(include_special_tokens=False)
        if vocabulary and target.get_vocabulary(include_special_tokens=False) != vocabulary:
            target.set_vocabulary(vocabulary)
    elif type(layer).__name__ == "Discretization":
        target.bin_boundaries = layer.bin_boundaries


def moved_ids(model: Any) -> set[int]:
    """Return the ids of the weights that training updates: trainable ones and BatchNorm's moving statistics."""
    layers = [unwrapped(layer) for layer in flat_layers(model)]
    norms = [layer for layer in layers if hasattr(layer, "moving_mean") and hasattr(layer, "moving_variance")]
    statistics = [part for norm in norms for part in (norm.moving_mean, norm.moving_variance)]
    return {id(weight) for weight in (*model.trainable_weights, *statistics)}


def finalize(model: Any) -> None:
    """Update what layers derive from weights, after assignment: Normalization computes with a copy."""
    for layer in flat_layers(model):
        if hasattr(layer, "finalize_state") and layer.weights:
            layer.finalize_state()
