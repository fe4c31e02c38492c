"""Seeded selection of samples: splits for missing parts, a limit, a spread over the classes."""

from __future__ import annotations

import numbers

import numpy as np

from tfopt.errors import DataError

NAMES = ("train", "validation", "test")
LARGEST_VALIDATION = 2000
# With fewer training samples than this, a tenth of them would say too little about a model.
FEW = 1000
TEST, SEED = 0.2, 0
"""What is split off for the test, and the seed of every split, unless the caller says otherwise."""
Plan = dict[str, tuple[str, np.ndarray]]


def choose(count: int, groups: np.ndarray, rng: np.random.Generator, *, even: bool = False) -> np.ndarray:
    """Return `count` distinct indices of `groups`, sorted, spread over the groups.

    Each group of two or more has one of them, if there are enough.

    Args:
        count: the number of indices; all if there are fewer.
        groups: integers (n,), the class of each sample; all equal for a plain random choice.
        rng: the random generator.
        even: draw as equally from all groups as possible, instead of in proportion to their sizes.
    """
    shuffled = rng.permutation(len(groups))
    _, group_of, sizes = np.unique(groups[shuffled], return_inverse=True, return_counts=True)
    by_group = np.argsort(group_of, kind="stable")
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.empty(len(groups))
    rank[by_group] = np.arange(len(groups)) - starts
    # A sample's rank within its group, as a fraction: the lowest fractions hold each group's share.
    place = rank if even else (rank + 0.5) / sizes[group_of]
    several = sizes[group_of] > 1
    if (several & (rank == 0)).sum() <= count:  # one of each group that can spare one
        place = np.where(several & (rank == 0), -1.0, place)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:count]])


def plan(
    groups: dict[str, np.ndarray],
    *,
    validation: float | None,
    test: float,
    seed: int,
    limit: int | None,
    gap: int | None = None,
) -> tuple[Plan, tuple[str, ...]]:
    """Choose the samples of train, validation and test: (name of the part they come from, their indices).

    Args:
        groups: the class of each sample, integers (n,), per existing part ("train" always exists).
        validation: fraction of train to split off if there is no validation part, at most 2,000 samples; None for a
            tenth, or a fifth of fewer than 1,000.
        test: fraction of train to split off if there is no test part.
        seed: for every choice; the same seed gives the same split.
        limit: the most samples in each of the three.
        gap: for samples in the order of time, of which the last are split off: how many are left out before them. None
            draws at random.

    Returns:
        The plan, and notes on everything that was split off or left out.

    Raises:
        DataError: a fraction outside (0, 1), a limit below 1, or too few samples to split.
    """
    check_options(validation=validation, test=test, seed=seed, limit=limit)
    chosen, split_notes = split_off(groups, validation=validation, test=test, seed=seed, gap=gap)
    chosen, limit_notes = limited(chosen, groups, seed=seed, limit=limit)
    return chosen, (*split_notes, *limit_notes)


def split_off(
    groups: dict[str, np.ndarray], *, validation: float | None, test: float, seed: int, gap: int | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """Return what `plan` does without a limit."""
    chosen: Plan = {name: (name, np.arange(len(part))) for name, part in groups.items()}
    notes = []
    for name, fraction, largest in (("test", test, None), ("validation", validation, LARGEST_VALIDATION)):
        if name in chosen:
            continue
        left = chosen["train"][1]
        fraction = fraction or (0.2 if len(left) < FEW else 0.1)
        count = max(1, round(fraction * len(left)))
        count = min(count, largest or count)
        if count + (gap or 0) >= len(left):
            between = f", of which {gap:,} before the {name} part are left out, since they share targets" if gap else ""
            raise DataError(
                f"Expected enough samples to split {name} off, got {len(left)} left for training{between}; add samples "
                f"or pass your own {name} set."
            )
        purpose = "testing" if name == "test" else name
        share = f"{100 * count / len(left):.3g} % of the training samples ({count:,})"
        if gap is None:
            picked = choose(count, groups["train"][left], _rng(seed, name))
            chosen[name], chosen["train"] = ("train", left[picked]), ("train", np.delete(left, picked))
            notes.append(f"no {name} data: {share} split off for {purpose}, seed {seed}")
        else:
            left_out = f", {gap:,} before them left out" if gap else ""
            chosen[name], chosen["train"] = ("train", left[-count:]), ("train", left[: -count - gap])
            notes.append(f"no {name} data: the last {share} split off for {purpose}{left_out}")
    return chosen, tuple(notes)


def limited(
    chosen: Plan, groups: dict[str, np.ndarray], *, seed: int, limit: int | None
) -> tuple[Plan, tuple[str, ...]]:
    """Return at most `limit` samples of each part of a plan, spread over their groups, and notes on those left out."""
    chosen, notes = dict(chosen), []
    for name, (origin, indices) in chosen.items():
        if limit is not None and limit < len(indices):
            picked = choose(limit, groups[origin][indices], _rng(seed, name + " limit"))
            chosen[name] = (origin, indices[picked])
            notes.append(limit_note(name, limit, len(indices), seed))
    return chosen, tuple(notes)


def limit_note(name: str, limit: int, count: int, seed: int) -> str:
    """Return the note on a part of which `limit` of `count` samples are taken."""
    return f"{name} limited to {limit:,} of {count:,} samples, seed {seed}"


def _rng(seed: int, purpose: str) -> np.random.Generator:
    """Return a separate random stream for each purpose, so that one choice does not affect another."""
    return np.random.default_rng([seed, *purpose.encode()])


def check_options(*, validation: float | None, test: float, seed: int, limit: int | None) -> None:
    """Raise `DataError` for a fraction outside (0, 1), a negative seed, or a limit below 1."""
    for name, fraction in (("validation", validation), ("test", test)):
        if fraction is not None and (isinstance(fraction, bool) or not isinstance(fraction, numbers.Real)):
            raise DataError(
                f"Expected {name} as a fraction between 0 and 1, got a {type(fraction).__name__}. Pass your own parts "
                'in the source: {"train": (x, y), "validation": (x, y), "test": (x, y)}.'
            )
        if fraction is not None and not 0 < fraction < 1:
            raise DataError(f"Expected {name} as a fraction between 0 and 1, got {fraction}.")
    if not _is_integer(seed) or seed < 0:
        raise DataError(f"Expected an integer seed of 0 or above, got {seed!r}.")
    if limit is not None and (not _is_integer(limit) or limit < 1):
        raise DataError(f"Expected a limit of at least 1 sample, an integer, got {limit!r}.")


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
