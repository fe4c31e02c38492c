"""Choose the kernels that a stage changes, and describe those that it leaves unchanged."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tfopt.stages.kernels.rules import Key, Rule, ruled_kernels
from tfopt.stages.kernels.table import Kernel, has_kernel, kernels

SPARED = "spared by default because it costs accuracy"
BY_RULE = "by rule"
NO_KERNEL = "no kernel"
UNKNOWN = "no known kernel; a custom class can name its kernels in get_prunable_weights()"


@dataclass(frozen=True)
class Decision:
    """What happens to one layer of the flat model, or why nothing does.

    Attributes:
        layer: name in the flat model.
        does: e.g. "60 % zeros", "16 clusters", "int8 weights per channel, int8 output"; "" if the layer is unchanged.
        why: why the layer is unchanged or treated differently; "" if neither applies.

    Examples:
        >>> from tfopt import bridge
        >>> decisions = tfopt.Prune(layers=(("head", False),)).decisions(bridge.to_tf_keras(model))
        >>> decisions["first"]
        Decision(layer='first', does='50 % zeros', why='')
        >>> isinstance(decisions["head"], tfopt.extend.Decision), decisions["head"].why
        (True, 'by rule')
    """

    layer: str
    does: str = ""
    why: str = ""


@dataclass(frozen=True)
class Choice:
    """The setting of one kernel; unless it is True, `why` gives the reason for it."""

    layer: Any
    kernel: Kernel
    setting: bool | float
    why: str = ""


def choose_kernels(
    rules: Iterable[Rule], model: Any, reason_against: Callable[[Any, Kernel], str]
) -> dict[Key, Choice]:
    """Return a choice for every kernel of a flat tf_keras `model`, in the order of its layers.

    Args:
        rules: the rules of the stage.
        model: a flat tf_keras model.
        reason_against: called with the layer and the kernel if no rule matches. Returns why the kernel is left out, or
            "" to choose it with the setting True.

    Returns:
        Choices by layer and kernel name.

    Raises:
        RecipeError: a rule matches nothing or has no effect.
    """
    found = [(layer, kernels(layer)) for layer in model.layers if has_kernel(layer)]
    ruled = ruled_kernels(rules, found)
    choices: dict[Key, Choice] = {}
    for layer, of_layer in found:
        for kernel in of_layer:
            key = (layer.name, kernel.name)
            why = BY_RULE if key in ruled else reason_against(layer, kernel)
            # 0 from a rule is a number, which the stage rejects or reads as "none". `Stage` rejects strings.
            setting = cast("bool | float", ruled.get(key, not why))
            choices[key] = Choice(layer, kernel, setting, "" if setting is True else why)
    return choices


def decisions_on_kernels(model: Any, does: Mapping[Key, str], why: Mapping[Key, str]) -> dict[str, Decision]:
    """Return a decision per layer of `model` with weights, from `does` for changed kernels and `why` for the others."""
    return {layer.name: _decision(layer, does, why) for layer in model.layers if layer.weights}


def _decision(layer: Any, does: Mapping[Key, str], why: Mapping[Key, str]) -> Decision:
    names = [kernel.name for kernel in kernels(layer)]
    if not names:
        unknown = any(len(weight.shape) >= 2 for weight in layer.trainable_weights)
        return Decision(layer.name, why=UNKNOWN if unknown else NO_KERNEL)
    done = {name: does[layer.name, name] for name in names if (layer.name, name) in does}
    left = {name: why[layer.name, name] for name in names if (layer.name, name) not in does}
    return Decision(
        layer.name, _described(done, "{what} in {names}", names), _described(left, "{names}: {what}", names)
    )


def _described(said: Mapping[str, str], form: str, names: list[str]) -> str:
    """Join the descriptions of the kernels `names` of a layer; name the kernels only if there are several."""
    together: dict[str, list[str]] = {}
    for name, what in said.items():
        together.setdefault(what, []).append(name)
    if len(names) == 1:
        return "".join(together)
    return "; ".join(form.format(what=what, names=", ".join(alike)) for what, alike in together.items())


def notes_on(model: Any, done: str, decisions: Mapping[str, Decision]) -> list[str]:
    """Return a line for each layer with a kernel, known or not, that is unchanged: "not pruned: depth (spared ...)"."""
    concerned = (decisions[layer.name] for layer in model.layers if layer.name in decisions)
    return [f"not {done}: {d.layer} ({d.why})" for d in concerned if d.why and d.why != NO_KERNEL]
