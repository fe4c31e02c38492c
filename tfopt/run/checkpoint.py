"""What an interrupted run has reached, in one file, so that the same run can go on from there."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from tfopt.base.archives import read_npz
from tfopt.base.files import atomic_path
from tfopt.base.reading import reading
from tfopt.errors import DataError
from tfopt.evaluate.report import Row


@dataclass(frozen=True)
class Checkpoint:
    """A file for one run; `key` tells the run (recipe, data, model) from all others."""

    path: Path
    key: str

    def save(self, weights: list[np.ndarray], rows: list[Row]) -> None:
        """Write the weights of the plain model after a stage, and the report so far; atomically."""
        rows_as_json = json.dumps([dataclasses.asdict(row) for row in rows])
        arrays: dict[str, Any] = {f"weight_{i}": weight for i, weight in enumerate(weights)}
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=self.key, rows=rows_as_json, **arrays)

    def load(self) -> tuple[list[np.ndarray], list[Row]] | None:
        """What `save` wrote last; None when there is nothing, or something of another run.

        Raises DataError for a file that `save` did not write, or that was damaged since.
        """
        if not self.path.exists():
            return None
        with reading(self.damaged):
            return self._read()

    def _read(self) -> tuple[list[np.ndarray], list[Row]] | None:
        stored = read_npz(self.path)
        if str(stored["key"]) != self.key:
            return None
        rows = TypeAdapter(list[Row]).validate_json(str(stored["rows"]), strict=True)
        number = sum(name.startswith("weight_") for name in stored)
        return [stored[f"weight_{i}"] for i in range(number)], rows

    def damaged(self, why: str) -> DataError:
        """The error for a checkpoint that no run can go on from."""
        return DataError(f"The checkpoint {self.path} is damaged ({why}).")

    def remove(self) -> None:
        """Forget: the run is complete."""
        self.path.unlink(missing_ok=True)


def run_key(recipe: dict[str, Any], fingerprint: str, weights: list[np.ndarray]) -> str:
    """SHA-256 over what makes two runs the same: recipe, data and the untouched model's weights."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    digest.update(fingerprint.encode())
    for weight in weights:
        digest.update(str(weight.shape).encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
