"""Data for reconstruction: inputs that are their own targets, and which of them are anomalies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tfopt.data.arrays import is_tf_data
from tfopt.data.parts import Parts
from tfopt.data.split import Plan
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


def normal_to_train_on(chosen: Plan, flags: dict[str, np.ndarray]) -> tuple[Plan, list[str]]:
    """Return a plan that trains and validates on normal samples only, and notes.

    Anomalies go to the test part if it was split off, and are left out if the source has one.

    Raises:
        DataError: no normal samples are left.
    """
    notes, kept, anomalies = [], dict(chosen), []
    for name in ("train", "validation"):
        origin, indices = chosen[name]
        anomalous = flags[origin][indices] != 0
        if anomalous.all():
            raise DataError(f"Expected normal samples in {name}, got {len(indices):,} anomalies alone; add some.")
        kept[name] = (origin, indices[~anomalous])
        if not anomalous.any():
            continue
        moved = origin == chosen["test"][0]
        where = "moved to test" if moved else "left out"
        notes.append(f"{int(anomalous.sum()):,} anomalies of {name} {where}: models learn from normal samples")
        anomalies += [indices[anomalous]] if moved else []
    origin, indices = chosen["test"]
    kept["test"] = (origin, np.sort(np.concatenate([indices, *anomalies])))
    return kept, notes
