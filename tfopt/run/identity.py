"""What decides the result of a run, as plain data: a checkpoint is of the run that has the same."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from tfopt.base.devices import device_kind, number_of_threads
from tfopt.bridge import described
from tfopt.run.checkpoint import structure_of
from tfopt.run.recipe import Recipe
from tfopt.training.outputs import LossByOutput

_FORMAT = 3
_PACKAGES = ("tfopt", "tensorflow", "tf_keras", "keras", "tensorflow-model-optimization", "numpy")


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """Return all of `recipe` that decides the result: not whether a run that is out of memory goes on."""
    return dataclasses.replace(
        recipe, training=dataclasses.replace(recipe.training, lower_batch_on_oom=False)
    ).to_dict()


def about_run(
    settings: Mapping[str, Any],
    *,
    data: str,
    model: Any,
    loss: Any,
    teacher: Any = None,
    threads: int | None = None,
    distribute: str = "no",
) -> dict[str, Any]:
    """Return all that decides the result of a run, as plain data.

    Args:
        settings: of the run, such as its recipe, as plain data.
        data: their fingerprint.
        model: with which the run begins.
        loss: on the labels, from `objective`.
        teacher: plain data that identify it.
        threads: of TensorFlow's operations, on which the order of sums depends; None for those of this process.
        distribute: over what the training is spread, in words.
    """
    about = {
        "format": _FORMAT,
        **settings,
        "loss": described(vars(loss) if isinstance(loss, LossByOutput) else loss),
        "teacher": teacher,
        "data": data,
        "model": {"layers": digest(structure_of(model)), "weights": _digest_of(model.get_weights())},
        "threads": threads or number_of_threads(),
        "device": device_kind(),
        "distribute": distribute,
        "versions": {name: version(name) for name in _PACKAGES},
    }
    return dict(plain(about))


def plain(values: Any) -> Any:
    """Return what JSON makes of `values`."""
    return json.loads(json.dumps(values))


def digest(values: Any) -> str:
    """Return the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest_of(weights: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(f"{weight.shape} {weight.dtype}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
