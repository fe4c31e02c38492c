"""Let layers of a model from `Quantize` compute in float between the values that training rounds.

Training rounds what goes into a layer and what comes out. What lies between, such as the distances of a custom layer or
the results of a softmax, is float in Keras, and int8 in the file. Where int8 loses too much of it, float does not: it
is what was trained.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Collection
from typing import Any

from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides, override_attributes
from tfopt.errors import TfoptError
from tfopt.graph.layer_facts import OWN_RANGE, facts_of
from tfopt.stages.kernels.layer_kinds import activation_of
from tfopt.stages.quantize.ranges import apart
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.selective import SECONDS
from tfopt.tflite.write.traced_forms import marked_results

_FIXED_SCALES = frozenset({"LogSoftmax", "Sigmoid", "Softmax", "Tanh"})
"""Operations whose results the converter rounds even if it leaves them in float."""


Make = Callable[[Collection[str], Export], LiteModel]
"""Makes and checks the file in which these layers compute in float what training does not round; raises TfoptError."""


def with_float_insides(model: Any, settings: Export, make: Make, error: TfoptError) -> LiteModel:
    """Return the file with the fewest layers that compute in float what training does not round.

    Halves of the layers become int8 again, then halves of those whose int8 form is bad, while there is time.

    Args:
        model: from `Quantize.apply`, after training.
        settings: of the file. Inputs and outputs become float32 if they may and the file is bad otherwise.
        make: makes the file.
        error: why the file without any cannot be used.

    Raises:
        TfoptError: `error`, if none of them helps.
    """
    until = time.monotonic() + SECONDS

    def made(layers: Collection[str], settings: Export) -> LiteModel:
        with override_attributes([one for layer in _named(model, layers) for one in _in_float(layer)]):
            return make(layers, settings)

    left = [unwrapped(layer).name for layer in model.layers if _in_float(layer)]
    if not left:
        raise error
    try:
        lite = made(left, settings)
    except TfoptError:
        if settings.io is not None:
            raise error from None
        settings = dataclasses.replace(settings, io="float32")
        try:
            lite = made(left, settings)
        except TfoptError:
            raise error from None
    waiting = [left]
    while waiting and time.monotonic() < until:
        block = waiting.pop(0)
        fewer = [name for name in left if name not in block]
        try:
            if not fewer:
                raise error
            lite = made(fewer, settings)
        except TfoptError:
            waiting += _halves(block)
        else:
            left = fewer
    return lite


def _halves(names: list[str]) -> list[list[str]]:
    middle = len(names) // 2
    return [names[:middle], names[middle:]] if middle else []


def _named(model: Any, names: Collection[str]) -> list[Any]:
    return [layer for layer in model.layers if unwrapped(layer).name in names]


def _in_float(layer: Any) -> Overrides:
    """Return what makes a layer compute in float; [] if training rounds all that it computes."""
    inner = unwrapped(layer)
    if facts_of(inner).family == "recurrent":
        return []
    if getattr(layer, "before", None) is not None:
        return [(inner, "activation", _of_float(inner.activation))]
    if (softmax := getattr(inner, "_softmax", None)) is not None:  # of MultiHeadAttention
        return [(softmax, "call", _of_float(softmax.call))]
    computes = getattr(layer, "after", None) if inner is not layer else activation_of(inner) in OWN_RANGE
    return [(layer, "call", _of_float(layer.call))] if computes and not facts_of(inner).kernels else []


def _of_float(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` of values that the converter leaves in float."""
    import tensorflow as tf

    @functools.wraps(function)
    def computed(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with marked_results(_FIXED_SCALES, apart):
            return function(tf.nest.map_structure(apart, inputs), *args, **kwargs)

    return computed
