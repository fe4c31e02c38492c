"""Replace, for the length of a block, what a model with quantization wrappers rounds: observe it, or round it once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfopt.base.overrides import Overrides, override_attributes


@contextmanager
def with_rounded_weights(model: Any) -> Iterator[None]:
    """Replace the weights of `model` by their rounded values within the block, instead of rounding them at each call.

    The converter needs constant weights, at least in recurrent layers. Weights with a single scale are still rounded by
    the operator that passes this scale to the converter.
    """
    overrides: Overrides = []
    values = []
    for layer in model.layers:
        pairs = list(zip(getattr(layer, "_given", ()), getattr(layer, "_weight_vars", ()), strict=False))
        loose = [pair for pair in pairs if not pair[0][2].needs_operator()]
        values += [(variable, variable.numpy(), quantizer, made) for _, (variable, quantizer, made) in loose]
        kept = [pair for pair in pairs if pair not in loose]
        if loose:
            overrides += [
                (layer, "_given", [given for given, _ in kept]),
                (layer, "_weight_vars", [v for _, v in kept]),
            ]
    for variable, before, quantizer, made in values:
        variable.assign(quantizer(before, False, weights=made))
    try:
        with override_attributes(overrides):
            yield
    finally:
        for variable, before, _, _ in values:
            variable.assign(before)


@contextmanager
def observe_activations(model: Any, see: Callable[[dict[str, Any], np.ndarray], None]) -> Iterator[None]:
    """Observe activations instead of rounding them within the block; `model` must be called eagerly.

    Args:
        model: a model with quantization wrappers.
        see: called for each quantizer with its variables and the values that it would round.
    """

    def look(inputs: Any, weights: dict[str, Any]) -> Any:
        see(weights, inputs.numpy())
        return inputs

    with replace_rounding(model, look):
        yield


@contextmanager
def replace_rounding(model: Any, function: Callable[[Any, dict[str, Any]], Any]) -> Iterator[None]:
    """Replace the rounding of activations within the block; `model` must be called eagerly.

    Args:
        model: a model with quantization wrappers.
        function: maps the values that a quantizer would round, and its variables, to what follows them.
    """

    def look(inputs: Any, training: bool, weights: dict[str, Any]) -> Any:
        del training
        return function(inputs, weights)

    overrides: Overrides = []
    for layer in model.layers:
        if getattr(layer, "quantizer", None) is not None:  # TF-MOT's layer for the model's inputs
            overrides.append((layer, "quantizer", look))
        if getattr(layer, "_output_quantizers", None):
            overrides.append((layer, "_output_quantizers", [look]))
        for point in (*getattr(layer, "points", ()), *getattr(layer, "_quantize_activations", ())):
            overrides.append((point, "quantizer", look))
    with override_attributes(overrides):
        yield
