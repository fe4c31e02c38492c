"""Distillation settings as plain data, without live objects."""

import dataclasses
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, SerializeAsAny

from tfopt.base.config import config
from tfopt.base.registry import registered_name
from tfopt.distillation.losses import LOSSES, Hinton, Loss
from tfopt.errors import RecipeError


@config
class Distillation:
    """The objective of the student: `alpha` times the loss on the labels, plus each term times its weight.

    Attributes:
        losses: the terms, see `tfopt.distillation.losses`. Each is logged under its label.
        alpha: weight of the loss on the labels; None takes the value from the paper of the first term: 0.1 with
            `Hinton`, 1 with most others. With 0 no labels are needed.
        views: number of augmented views per image that the teacher answers, once each; epoch e uses view e modulo
            `views`. Without augmentation there is one.
        cache: "auto" runs the teacher once if inputs repeat (arrays, a `Dataset`), else at every step; "always" refuses
            inputs that do not repeat; "never" runs it at every step.

    Examples:
        >>> recipe = tfopt.Recipe(
        ...     stages=(tfopt.Prune(final_sparsity=0.6), tfopt.Quantize()),
        ...     distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(temperature=4.0),), alpha=0.1, views=8),
        ... )
        >>> recipe.distillation.losses[0].weight
        0.9
    """

    losses: tuple[SerializeAsAny[Loss], ...] = Field(default=(Hinton(),), min_length=1)
    alpha: NonNegativeFloat | None = None
    views: PositiveInt = 8
    cache: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        tasks = {loss.task: loss.label for loss in self.losses if loss.task}
        if len(tasks) > 1:
            said = " and ".join(f"{label} ({task})" for task, label in tasks.items())
            raise RecipeError(f"All losses on responses must be for one task; got {said}. Leave one out.")
        if not self.hard_weight and not self.needs_teacher:
            raise RecipeError("Nothing is learned: alpha is 0 and no loss uses a teacher. Set alpha above 0.")

    @property
    def hard_weight(self) -> float:
        """`alpha`, or the default from the first term's paper."""
        return self.losses[0].alpha if self.alpha is None else self.alpha

    @property
    def task(self) -> str | None:
        """The task whose responses are compared; None if only features are compared."""
        return next((loss.task for loss in self.losses if loss.task), None)

    @property
    def needs_teacher(self) -> bool:
        """True if at least one loss compares with a teacher."""
        return any(loss.needs_teacher for loss in self.losses)

    def layers(self, side: Literal["student", "teacher"]) -> tuple[str, ...]:
        """Return the layers whose outputs are compared on a `side`, "student" or "teacher", without duplicates."""
        place = ("student", "teacher").index(side)
        return tuple(dict.fromkeys(pair[place] for loss in self.losses for pair in loss.pairs))

    def labels(self) -> tuple[str, ...]:
        """Return the log label of each term; repeated kinds are numbered."""
        names: list[str] = []
        for loss in self.losses:
            before = sum(name == loss.label or name.startswith(f"{loss.label}_") for name in names)
            names.append(f"{loss.label}_{before + 1}" if before else loss.label)
        return tuple(names)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; each loss has its class name under "loss"."""
        losses = [{"loss": registered_name(type(loss)), **dataclasses.asdict(loss)} for loss in self.losses]
        return {**dataclasses.asdict(self), "losses": losses}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Distillation":
        """Return the distillation whose `values` `to_dict` wrote. Raise RecipeError for unknown losses and values."""
        given = values.get("losses", ())
        if not isinstance(given, list | tuple):
            raise RecipeError(f"Distillation needs a list of 'losses'; got {given!r}.")
        losses = tuple(_loss(loss) for loss in given)
        return cls(**{**values, **({"losses": losses} if losses else {})})


def _loss(values: Any) -> Loss:
    if isinstance(values, Loss):
        return values
    if not isinstance(values, dict):
        raise RecipeError(f"Unknown loss {values!r}. Known: {', '.join(kind.__name__ for kind in LOSSES)}.")
    kind = LOSSES.named(values.get("loss"))
    return kind(**{key: value for key, value in values.items() if key != "loss"})
