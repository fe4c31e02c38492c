"""How many channels of each group must stay, by the rules of a stage."""

from typing import Any

from tfopt.errors import RecipeError
from tfopt.stages.channels.selection import Limits
from tfopt.stages.kernels.rules import choose, require_effect
from tfopt.surgery.channels.groups import Channels


def limits_of(stage: Any, channels: Channels) -> Limits:
    """Return what must stay of each group, by the rules of a `PruneChannels` stage.

    Args:
        stage: the settings.
        channels: of the model.

    Raises:
        RecipeError: a rule matches nothing, or sets something else than False, True or a share.
    """
    layers = [leaf.layer for leaf in channels.trace.graph.leaves if getattr(leaf.layer, "weights", None)]
    if stage.widths and len(stage.widths) != len(channels.groups):
        raise RecipeError(
            f"Expected a width for each of the {len(channels.groups)} groups of channels; widths has "
            f"{len(stage.widths)} numbers. These widths were chosen for another model; set widths=() to choose again."
        )
    if any(width > len(group) for width, group in zip(stage.widths, channels.groups, strict=False)):
        raise RecipeError(
            f"Expected widths of at most {tuple(len(group) for group in channels.groups)}, those of this model; got "
            f"{stage.widths}. These widths were chosen for another model; set widths=() to choose again."
        )
    settings = choose(stage.layers, layers, {layer.name: True for layer in layers})
    makers = {name for group in channels.groups for name in group.layers}
    removable = ", ".join(sorted(makers))
    said = f"none of the layers it matches has channels that can be removed. Expected one of: {removable}."
    require_effect(stage.layers, layers, makers, said)
    least, fixed = [], []
    for group in channels.groups:
        own = [settings[name] for name in group.layers if name in settings]
        shares = [each for each in own if not isinstance(each, bool)]
        if any(not isinstance(each, float | int) or not 0 < each <= 1 for each in shares):
            raise RecipeError(
                "A rule of PruneChannels sets False, to keep all channels, or the share of them that is kept, "
                f"between 0 and 1; for {group.name} the rules set {', '.join(map(str, own))}."
            )
        stay = len(group) if False in own else None
        stay = round(max(map(float, shares)) * len(group)) if shares and stay is None else stay
        fixed.append(stay)
        least.append(max(1, round(stage.least * len(group))))
    rounding = [1 if group.kind == "heads" else stage.round_to for group in channels.groups]
    free = Limits(tuple(1 for _ in least), tuple(None for _ in fixed), tuple(rounding))
    fixed = [
        None if stay is None else free.rounded(number, len(channels.groups[number]), stay)
        for number, stay in enumerate(fixed)
    ]
    if stage.widths:
        fixed = list(stage.widths)
    return Limits(tuple(least), tuple(fixed), tuple(rounding))
