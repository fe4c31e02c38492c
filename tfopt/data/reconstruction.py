"""Data for reconstruction: inputs that are their own targets, and which of them are anomalies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tfopt.data.parts import Parts
from tfopt.data.split import Plan, plan
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


def with_flags(parts: Parts) -> Parts:
    """Return `parts` with labels of 0 for normal samples and 1 for anomalies, int32 (n,).

    Labels may be 0 and 1; the inputs themselves, as Keras trains autoencoders, which makes all samples normal; or
    classes, of which one is called as in `NORMAL`.

    Raises:
        DataError: other labels, or several inputs.
    """
    if any(isinstance(side, dict) for pair in parts.pairs.values() for side in pair):
        raise DataError("Expected one input that is also the target of a reconstruction, got several by name.")
    normal = None
    if parts.class_names:
        known = [name.strip().casefold() for name in parts.class_names]
        normal = next((known.index(name) for name in NORMAL if name in known), None)
        if normal is None:
            raise DataError(
                f"Expected a class called {', '.join(NORMAL)} among {', '.join(parts.class_names)}: the others are "
                "anomalies. Rename the folder of normal samples."
            )
    pairs = {name: (x, _flags(name, x, y, normal)) for name, (x, y) in parts.pairs.items()}
    return replace(parts, pairs=pairs, class_names=None)


def _flags(name: str, inputs: Any, labels: Any, normal: int | None) -> Any:
    if normal is not None:
        return np.not_equal(labels, normal).astype(np.int32)
    if labels is inputs or (labels.shape == inputs.shape and labels.ndim > 1 and np.array_equal(labels, inputs)):
        return np.zeros(len(inputs), np.int32)
    if labels.shape[1:] in ((), (1,)) and labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        return labels.reshape(len(labels)).astype(np.int32)
    raise DataError(
        f"Expected {name} labels of 0 (normal) and 1 (anomaly) for a reconstruction, got {labels.dtype} of shape "
        f"{labels.shape}; give such labels, or none."
    )


def plan_with_anomalies(flags: dict[str, np.ndarray], **options: Any) -> tuple[Plan, tuple[str, ...]]:
    """Return a plan, as `split.plan` does with these options, that trains and validates on normal samples only.

    Anomalies go to the test part if it is split off, and are left out if the source has one.

    Raises:
        DataError: there are no normal samples, or as `plan`.
    """
    used = {name: np.arange(len(part)) if name == "test" else np.flatnonzero(part == 0) for name, part in flags.items()}
    normal = {name: indices[flags[name][indices] == 0] for name, indices in used.items()}
    if empty := [name for name, indices in normal.items() if not len(indices)]:
        raise DataError(f"Expected normal samples in {empty[0]}, got {len(flags[empty[0]]):,} anomalies; add some.")
    chosen, notes = plan({name: flags[name][indices] for name, indices in used.items()}, **options)
    found = {name: (origin, used[origin][indices]) for name, (origin, indices) in chosen.items()}
    for name in (each for each in flags if each != "test"):
        anomalies = np.flatnonzero(flags[name])
        if options["limit"] is not None:  # of all kinds: folders come sorted by class
            spread = np.linspace(0, len(anomalies), min(options["limit"], len(anomalies)), endpoint=False)
            anomalies = anomalies[spread.astype(np.int64)]
        moved = name == found["test"][0]
        if moved:
            found["test"] = (name, np.sort(np.concatenate([found["test"][1], anomalies])))
        if len(anomalies):
            where = "moved to test" if moved else "left out"
            notes += (f"{len(anomalies):,} anomalies of {name} {where}: models learn from normal samples",)
    return found, notes
