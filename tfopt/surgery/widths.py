"""Read the width of a layer from its config, and adapt configs to other widths and input sizes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.errors import ModelError
from tfopt.graph.layer_facts import classes_with, facts_named, facts_of
from tfopt.graph.types import is_layer

Shape = tuple[int | None, ...]  # without the batch axis


def width_of(layer: Any) -> int | None:
    """Return the output channels of a Dense layer or convolution, also in TimeDistributed; None for others."""
    worker = layer.layer if facts_of(layer).family == "time_distributed" else layer
    key = _outputs_key(type(worker).__name__)
    return int(getattr(worker, key)) if key and is_layer(worker) else None


def _outputs_key(kind: str) -> str:
    """Return the config key of the output channels of a Dense layer or convolution; "" for other classes."""
    facts = facts_named(kind)
    return facts.width if facts.width_is == "outputs" else ""


def scaled_width(width: int, factor: float, divisor: int) -> int:
    """Return `width` * `factor`, rounded to a multiple of `divisor`, and at most a tenth below.

    The minimum is `divisor`, or `width` if that is less. This is the width multiplier of MobileNets (Howard et al.
    2017, arXiv:1704.04861, section 3.3), with the rounding of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).
    """
    wanted = width * factor
    rounded = max(min(divisor, width), int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def scaled(kind: str, config: dict[str, Any], factor: float, divisor: int) -> dict[str, Any]:
    """Return the config of a layer of class `kind` with widths times `factor`, including layers inside a wrapper.

    Raises:
        ModelError: the class cannot be scaled this way.
    """

    def edit(kind: str, config: dict[str, Any]) -> dict[str, Any]:
        facts = facts_named(kind)
        key = facts.width
        if key and facts.width_is == "fixed":
            raise ModelError(
                f"Its {key} = {config.get(key)} does not follow a width multiplier: pass width=1.0, or build the model "
                "in the width you want."
            )
        return {**config, key: scaled_width(config[key], factor, divisor)} if key else config

    return _edited(kind, config, edit)


def answering(kind: str, config: dict[str, Any], outputs: int | None, activation: str | None) -> dict[str, Any]:
    """Return the config of a classifier of class `kind` with these `outputs` and `activation`; None keeps either."""

    def edit(kind: str, config: dict[str, Any]) -> dict[str, Any]:
        if not (key := _outputs_key(kind)):
            return config
        changes = {key: outputs, "activation": activation}
        return {**config, **{key: value for key, value in changes.items() if value is not None}}

    return _edited(kind, config, edit)


def _edited(kind: str, config: dict[str, Any], edit: Callable[[str, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return `config` after `edit`, applied to the layer itself and to its nested layers."""

    def inside(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return [inside(item) for item in part]  # tf_keras wraps lists in its own class
        if isinstance(part, dict) and isinstance(part.get("config"), dict) and "class_name" in part:
            return {**part, "config": _edited(part["class_name"], part["config"], edit)}
        return part

    return edit(kind, {key: inside(value) for key, value in config.items()})


def refitted(kind: str, config: dict[str, Any], given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
    """Return the config of a layer of class `kind` for inputs of another shape.

    Args:
        kind: the name of a Keras layer class.
        config: of the layer, otherwise final.
        given: the shape of its input in the original model.
        made: the shape of its output in the original model.
        now: the new shape of its input.

    Returns:
        The adapted config.

    Raises:
        ModelError: the config fixes a size that cannot follow.
    """
    if given == now:
        return config
    refit = _REFITS.get(kind)
    return config if refit is None else refit(config, given, made, now)


def target_shape(given: Shape, made: Shape, now: Shape) -> tuple[int, ...]:
    """Return the target of a Reshape from `given` to `made` for inputs of the shape `now`, if it is unambiguous.

    It is if the Reshape only flattens, or keeps the channels and keeps or flattens the other axes.

    Raises:
        ModelError: any other Reshape.
    """
    found: list[int | None] | None = None
    if given == now:
        found = list(made)
    elif len(made) == 1 and (made[0] is None or None in given or made[0] == math.prod(size or 0 for size in given)):
        found = [-1]
    elif given and made and given[-1] == made[-1]:
        if given[:-1] == now[:-1]:
            found = [*made[:-1], now[-1]]
        elif len(made) == 2:
            found = [-1, now[-1]]
    sizes = [-1 if size is None else size for size in found or ()]
    if found is None or sizes.count(-1) > 1:
        raise ModelError(
            f"It turns {given} into {made}, which does not apply to inputs of {now}: keep the sizes that lead to it, "
            "or use a Flatten or a pooling instead."
        )
    return tuple(sizes)


def _reshape(config: dict[str, Any], given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
    return {**config, "target_shape": target_shape(given, made, now)}


def _groups_of_norm(config: dict[str, Any], given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
    axis = config["axis"] - 1 if config["axis"] > 0 else config["axis"]  # the shapes have no batch axis
    groups, channels = config["groups"], now[axis]
    if groups == given[axis]:  # one channel each
        return {**config, "groups": channels}
    if channels is not None and groups > 0 and channels % groups:
        raise ModelError(f"Its {groups} groups do not divide {channels} channels: choose a width that they divide.")
    return config


def _groups_of_convolution(config: dict[str, Any], given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
    groups, filters = config.get("groups", 1), config["filters"]
    channels = now[-1]
    if groups == 1 or channels is None:
        return config
    if groups == given[-1]:  # one channel each
        return {**config, "groups": channels, "filters": channels * ((made[-1] or 0) // groups)}
    if channels % groups or filters % groups:
        raise ModelError(
            f"Its {groups} groups do not divide {channels} channels and {filters} filters: choose a width or divisor "
            "with which they do."
        )
    return config


def _rescaling(config: dict[str, Any], given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
    for key in ("scale", "offset"):
        if np.shape(config[key])[-1:] not in ((), (1,), now[-1:]):
            raise ModelError(
                f"Its {key} holds {np.shape(config[key])[-1]} numbers for the channels of {given}; its new input is "
                f"{now}: keep the channels that lead to it, or give it a single number."
            )
    return config


def _layer_scale(config: dict[str, Any], given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
    return {**config, "projection_dim": now[-1]} if config["projection_dim"] == given[-1] else config


_REFITS: dict[str, Callable[[dict[str, Any], Shape, Shape, Shape], dict[str, Any]]] = {
    **dict.fromkeys(classes_with(lambda facts: facts.family == "convolution"), _groups_of_convolution),
    "Reshape": _reshape,
    "GroupNormalization": _groups_of_norm,
    "LayerScale": _layer_scale,
    "Rescaling": _rescaling,
}
