"""The tries of one stage: a first one, and a second, gentler one if the guard or the training itself rejects it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from tfopt.errors import DivergedError, TfoptError
from tfopt.run.guard import Guard
from tfopt.run.step import Step
from tfopt.stages import Stage


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage.

    Attributes:
        stage: as it was carried out, perhaps gentler than in the recipe.
        step: the better try; None if no training stayed finite.
        failure: why the run ends before the stage, in words; empty if the guard accepts `step`.
    """

    stage: Stage
    step: Step | None
    failure: str = ""


def carry_out_stage(
    stage: Stage, try_stage: Callable[[Stage], Step], guard: Guard, *, learning_rate: float, say: Callable[[str], None]
) -> Outcome:
    """Carry out `stage`, with a second try if the first is too low or diverges, and return what came of it.

    Args:
        stage: to carry out.
        try_stage: trains a variant of it on the model before it.
        guard: evaluates the tries.
        learning_rate: of the stages that set none.
        say: gets a line before the second try.

    Raises:
        TfoptError: of the first try, except that it diverged.
    """
    first: Step | None
    try:
        first = try_stage(stage)
        if not guard.too_low(first.evaluation):
            return Outcome(stage, first)
        rejected = guard.compared(first.evaluation)
    except DivergedError as error:
        first, rejected = None, str(error).rstrip(".")
    gentler = stage.gentler((first.stage if first else stage).learning_rate or learning_rate)
    if gentler is None:
        return Outcome(stage, first, _failure(first, guard, rejected))
    say(f"{rejected}; trying once more, gentler")
    try:
        second = try_stage(gentler)
    except TfoptError as error:
        kept = first and _with_notes(first, f"a second try failed: {error}")
        return Outcome(stage, kept, _failure(kept, guard, f"{rejected}; second try: {str(error).rstrip('.')}"))
    tried = f"first: {rejected}; second: {guard.compared(second.evaluation)}"
    if first is not None and not guard.prefers(second.evaluation, first.evaluation):
        first = _with_notes(first, f"tried twice, the first was better; {tried}")
        return Outcome(stage, first, _failure(first, guard, rejected))
    second = _with_notes(second, f"tried twice, the second was better; {tried}", _changes(stage, gentler))
    return Outcome(gentler, second, _failure(second, guard, rejected))


def _failure(step: Step | None, guard: Guard, rejected: str) -> str:
    """Return why the run ends; empty if the guard accepts `step`."""
    if step is None:
        return f"{rejected}. The file holds the model before that stage."
    if not guard.fails(step.evaluation):
        return ""
    return (
        f"{guard.compared(step.evaluation)}; max_drop={guard.max_drop:g}. The file holds the model before that stage. "
        "Lower the target, train longer on more data, or allow more with Recipe(max_drop=...)."
    )


def _changes(stage: Stage, gentler: Stage) -> str:
    """Return a note on the settings of a second try that differ from those of the first."""
    before, after = dataclasses.asdict(stage), dataclasses.asdict(gentler)
    changed = [name for name in after if name != "retry" and after[name] != before[name]]
    return "settings of the second try: " + ", ".join(
        f"{name} {_shown(after[name])} instead of {_shown(before[name])}" for name in changed
    )


def _shown(value: object) -> str:
    if value is None:
        return "the default"
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def _with_notes(step: Step, *notes: str) -> Step:
    return dataclasses.replace(step, notes=[*step.notes, *notes])
