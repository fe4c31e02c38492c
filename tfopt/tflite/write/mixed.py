"""Which operators of an integer file may compute in float, and why."""

import dataclasses
from collections.abc import Collection
from typing import Any

from tfopt.errors import PromiseError
from tfopt.stages.quantize.trained import is_quantization_aware, layers_left_in_float
from tfopt.tflite.prove.types import computes_in_float, float_operators, operators_without_form
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export


def allowed_floats(
    settings: Export,
    model: Any,
    named: LiteModel,
    names: LayerNames,
    *,
    only_trained: bool,
    insides: Collection[str] = (),
) -> tuple[Export, dict[str, str]]:
    """Return the settings of a file that may hold float operators, and the layers of these with the reason, if any.

    Args:
        settings: as asked.
        model: the caller's; `Quantize` may have left layers in float.
        named: the file with the names of inner tensors.
        names: of its layers.
        only_trained: whether operators for which `Quantize` has trained no range stay in float.
        insides: layers that compute in float what `Quantize` does not round.
    """
    in_float = layers_left_in_float(model)
    if settings.max_noise is not None:
        return _as_mixed(settings, named, names, f"for noise of at most {settings.max_noise:g}")
    if only_trained:
        settings, more = _as_mixed(settings, named, names, "a range that samples give would change what it computes")
        return settings, {**more, **in_float}
    if insides:
        why = "in int8 the file would not compute what the trained model does"
        settings, more = _as_mixed(settings, named, names, why)
        return settings, {**more, **dict.fromkeys(insides, why), **in_float}
    if not in_float and settings.mixed and (without_form := operators_without_form(named, settings)):
        why = f"LiteRT has no {settings.activations} operator for it"
        settings, _ = _as_mixed(settings, named, names, why)
        exact = named.index_values().makers
        return settings, {
            layer: "its values become indices" if op in exact else why
            for op in without_form
            for layer in names.near(op) or [op.name]
        }
    calibrated = settings.integer_only and settings.mixed and not is_quantization_aware(model)
    # What compares values with themselves looks for NaN, which rounding would hide.
    tells_nan = any(op.name in ("EQUAL", "NOT_EQUAL") for op in float_operators(named))
    if not in_float and calibrated and not tells_nan and not computes_in_float(named):
        return _as_mixed(settings, named, names, "the converter gives it no integers here")
    return settings, in_float


def require_integers(named: LiteModel, settings: Export, max_noise: float | None) -> None:
    """Raise PromiseError if a file with integers has come to compute in float alone."""
    if computes_in_float(named):
        limit = settings.max_noise if max_noise is None else max_noise
        raise PromiseError(
            f"{settings.activations} activations were promised, but for noise of at most {limit:g} every operator has "
            'to stay in float. Allow more, or export with activations="float32".'
        )


def _as_mixed(settings: Export, named: LiteModel, names: LayerNames, why: str) -> tuple[Export, dict[str, str]]:
    """Return the settings of a file that may hold float operators, and the layers of these with the reason."""
    rounded = [port.dtype for port in (*named.inputs, *named.outputs) if port.scales or port.dtype == "float32"]
    if set(rounded) == {"float32"}:
        settings = dataclasses.replace(settings, io="float32")
    return settings, {layer: why for op in float_operators(named) for layer in names.near(op) or [op.name]}
