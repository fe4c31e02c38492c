"""Learning-rate schedules: a cosine, and one cycle, with a linear warm-up.

Both are built from `CosineDecay`, which both Kerases have, so a model compiled with one crosses the bridge, and its
file loads anywhere.
"""

from typing import Any, Literal

from tfopt.base import keras_compat
from tfopt.errors import RecipeError

Schedule = Literal["cosine", "constant", "one_cycle"]

# One cycle starts at this fraction of its highest rate and ends at the second, as in fastai (Howard & Gugger 2020,
# arXiv:2002.04688); the paper asks for an end "several orders of magnitude" below the start.
CYCLE_START = 1 / 25
CYCLE_END = 1e-5
CYCLE_WARM_UP = 0.3


def cosine_schedule(model: Any, rate: float, steps: int, *, warm_up: float = 0.0) -> Any:
    """Return a schedule that rises linearly to `rate`, then falls to 0 along half a cosine (Loshchilov & Hutter 2016).

    With w = round(warm_up * steps), the rate at step s is rate * (1 / w + (1 - 1 / w) * s / w) for s < w (Goyal et al.
    2017, arXiv:1706.02677, section 2.2), then rate * (1 + cos(pi * (s - w) / (steps - w))) / 2.

    Args:
        model: determines the Keras of the schedule, Keras 3 or tf_keras.
        rate: the highest learning rate.
        steps: total training steps (batches) of the `fit`; the rate stays 0 after them.
        warm_up: fraction of the steps, from 0 to less than 1.

    Returns:
        The schedule.

    Raises:
        RecipeError: a value out of range.

    Examples:
        >>> schedule = tfopt.training.cosine_schedule(model, 1e-3, steps=100, warm_up=0.1)
        >>> [round(float(schedule(step)), 6) for step in (0, 10, 55, 100)]
        [0.0001, 0.001, 0.0005, 0.0]
        >>> model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    """
    return scheduled(keras_compat.keras_of(model), rate, steps, "cosine", warm_up)


def one_cycle_schedule(model: Any, rate: float, steps: int, *, warm_up: float = CYCLE_WARM_UP) -> Any:
    """Return a one-cycle schedule that rises to `rate` and falls far below its start (Smith & Topin 2017).

    arXiv:1708.07120, section 4. With w = round(warm_up * steps), the rate rises linearly from rate / 25 at step 0 to
    `rate` at step w, then falls to rate / 100,000 at the last one: along half a cosine, as in fastai, where the paper
    uses two straight lines.

    Args:
        model: see `cosine_schedule`.
        rate: the highest learning rate.
        steps: the number of training steps.
        warm_up: fraction of the steps in which the rate rises, from 0 to less than 1.

    Returns:
        The schedule.

    Raises:
        RecipeError: a value out of range.

    Examples:
        >>> schedule = tfopt.training.one_cycle_schedule(model, 1e-2, steps=100)
        >>> [round(float(schedule(step)), 6) for step in (0, 30)]
        [0.0004, 0.01]
    """
    return scheduled(keras_compat.keras_of(model), rate, steps, "one_cycle", warm_up)


def scheduled(package: Any, rate: float, steps: int, schedule: Schedule, warm_up: float | None) -> Any:
    """Return a learning rate for an optimizer of `package` (`keras` or `tf_keras`): a schedule, or `rate` itself.

    `warm_up` None means 0.3 of the steps for one cycle, none for the others. See `cosine_schedule` and
    `one_cycle_schedule`; "constant" stays at `rate` after the warm-up.
    """
    if rate <= 0 or steps < 0 or not 0 <= (warm_up or 0) < 1:
        raise RecipeError(
            "A schedule needs a rate above 0, steps of 0 or more and a warm-up from 0 to less than 1; "
            f"got rate {rate}, steps {steps} and warm_up {warm_up}."
        )
    one_cycle = schedule == "one_cycle"
    if warm_up is None:
        warm_up = CYCLE_WARM_UP if one_cycle else 0.0
    rising = round(warm_up * steps)
    if not steps or (schedule == "constant" and not rising):
        return rate
    end = {"cosine": 0.0, "constant": 1.0, "one_cycle": CYCLE_END}[schedule]
    cosine = package.optimizers.schedules.CosineDecay
    if not rising:
        return cosine(rate, decay_steps=steps, alpha=end)
    start = rate * (CYCLE_START if one_cycle else 1 / rising)
    return cosine(start, decay_steps=max(steps - rising, 1), alpha=end, warmup_target=rate, warmup_steps=rising)
