"""Data for reconstruction: inputs that are their own targets, and which of them are anomalies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tfopt.data.parts import Parts
from tfopt.data.split import Plan, check_options, limit_note, limited, split_off
from tfopt.data.streams import is_tf_data
from tfopt.errors import DataError

NORMAL = ("normal", "good", "ok", "healthy")
"""Names of the class of samples without an anomaly."""


def with_labels(source: Any) -> Any:
    """Return a source of `load_data` in which arrays without labels have labels of 0, for normal samples."""
    if isinstance(source, np.ndarray):
        return source, np.zeros(len(source) if source.ndim else 0, np.int64)
    if isinstance(source, dict):
        return {name: with_labels(part) for name, part in source.items()}
    if is_tf_data(source) and not isinstance(source.element_spec, tuple):
        return source.map(lambda x: (x, x))
    return source


def is_normal(class_name: str) -> bool:
    """Return whether a class is one of samples without an anomaly."""
    return class_name.strip().casefold() in NORMAL


def with_flags(parts: Parts) -> Parts:
    """Return `parts` with labels of 0 for normal samples and 1 for anomalies, int32 (n,).

    Labels may be 0 and 1; the inputs themselves, as Keras trains autoencoders, which makes all samples normal; or
    classes, of which those called as in `NORMAL` are of normal samples.

    Raises:
        DataError: other labels, or several inputs.
    """
    if any(isinstance(side, dict) for pair in parts.pairs.values() for side in pair):
        raise DataError("Expected one input that is also the target of a reconstruction, got several by name.")
    normal: list[int] = []
    if parts.class_names:
        normal = [number for number, name in enumerate(parts.class_names) if is_normal(name)]
        if not normal:
            raise DataError(
                f"Expected a class called {', '.join(NORMAL)} among {', '.join(parts.class_names)}: the others are "
                "anomalies. Rename the folder of normal samples."
            )
    pairs = {name: (x, _flags(name, x, y, normal)) for name, (x, y) in parts.pairs.items()}
    return replace(parts, pairs=pairs, class_names=None)


def _flags(name: str, inputs: Any, labels: Any, normal: list[int]) -> Any:
    if normal:
        return np.isin(labels, normal, invert=True).astype(np.int32)
    if labels is inputs or (labels.shape == inputs.shape and labels.ndim > 1 and np.array_equal(labels, inputs)):
        return np.zeros(len(inputs), np.int32)
    if labels.shape[1:] in ((), (1,)) and labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        return labels.reshape(len(labels)).astype(np.int32)
    raise DataError(
        f"Expected {name} labels of 0 (normal) and 1 (anomaly) for a reconstruction, got {labels.dtype} of shape "
        f"{labels.shape}; give such labels, or none."
    )


def plan_with_anomalies(
    flags: dict[str, np.ndarray], *, validation: float | None, test: float, seed: int, limit: int | None
) -> tuple[Plan, tuple[str, ...]]:
    """Return a plan, as `split.plan` does, that trains and validates on normal samples only.

    Anomalies go to the test part if it is split off, and are left out if the source has one. Of a limit for a test part
    that is split off, half is for anomalies, or more if there are too few normal samples.

    Raises:
        DataError: there are no normal samples, or as `plan`.
    """
    check_options(validation=validation, test=test, seed=seed, limit=limit)
    used = {name: np.arange(len(part)) if name == "test" else np.flatnonzero(part == 0) for name, part in flags.items()}
    normal = {name: indices[flags[name][indices] == 0] for name, indices in used.items()}
    if empty := [name for name, indices in normal.items() if not len(indices)]:
        raise DataError(f"Expected normal samples in {empty[0]}, got {len(flags[empty[0]]):,} anomalies; add some.")
    groups = {name: flags[name][indices] for name, indices in used.items()}
    chosen, notes = split_off(groups, validation=validation, test=test, seed=seed)
    notes += _notes_on(flags, moved="test" not in flags)
    anomalies = np.flatnonzero(flags["train"]) if "test" not in flags else np.zeros(0, np.int64)
    tested = len(chosen["test"][1])
    added, room = _shared(limit, anomalies, tested)
    of_test, _ = limited({"test": chosen["test"]}, groups, seed=seed, limit=room)
    if limit is not None and (count := tested + len(anomalies)) > limit:
        notes += (limit_note("test", limit, count, seed),)
    rest = {name: part for name, part in chosen.items() if name != "test"}
    rest, limit_notes = limited(rest, groups, seed=seed, limit=limit)
    found = {name: (origin, used[origin][indices]) for name, (origin, indices) in (chosen | of_test | rest).items()}
    found["test"] = (found["test"][0], np.sort(np.concatenate([found["test"][1], added])))
    return found, (*notes, *limit_notes)


def _shared(limit: int | None, anomalies: np.ndarray, normal_count: int) -> tuple[np.ndarray, int | None]:
    """Return the anomalies that a limit leaves in a test part, and the most normal samples beside them."""
    if limit is None:
        return anomalies, None
    most = min(len(anomalies), max(limit // 2, limit - normal_count))
    spread = np.linspace(0, len(anomalies), most, endpoint=False)  # of all kinds: folders come sorted by class
    return anomalies[spread.astype(np.int64)], limit - most


def _notes_on(flags: dict[str, np.ndarray], *, moved: bool) -> tuple[str, ...]:
    """Return notes on anomalies outside a test part: those of train may be moved there."""
    counts = {name: int(np.count_nonzero(part)) for name, part in flags.items() if name != "test"}
    return tuple(
        f"{count:,} anomalies of {name} {'moved to test' if moved and name == 'train' else 'left out'}: models learn "
        "from normal samples"
        for name, count in counts.items()
        if count
    )
