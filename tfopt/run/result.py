"""What a run gives."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfopt import models
from tfopt.base.files import output_folder, write_atomically
from tfopt.data import Dataset
from tfopt.evaluate.report import Report
from tfopt.run.recipe import Recipe
from tfopt.tflite.read import LiteModel


@dataclass(frozen=True)
class Result:
    """What `optimize` returns.

    Attributes:
        model: the compressed model, in the kind of Keras that came in; its kernels hold the values of the file.
        lite: the `.tflite`.
        report: a row per step.
        recipe: as it was carried out.
        data: what the data set was and what the model is fed, in words.
        files: what else there is to save, by name.
    """

    model: Any
    lite: LiteModel
    report: Report
    recipe: Recipe
    data: dict[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `model.tflite`, `model.keras`, `recipe.json`, `report.json` and `data.json` into `folder`.

        And `labels.txt`, one class name in a line in the order of the outputs, where the classes have names.

        All or nothing: the folder appears when everything in it is written. Raises `OutputError` when it
        exists (unless `overwrite`) or cannot be written.
        """
        with output_folder(folder, overwrite=overwrite) as new:
            write_atomically(new / "model.tflite", self.lite.data)
            models.save_model(self.model, new / "model.keras")
            write_atomically(new / "recipe.json", self.recipe.to_json())
            write_atomically(new / "report.json", self.report.to_json())
            write_atomically(new / "data.json", json.dumps(self.data, indent=2) + "\n")
            if names := self.data["class_names"]:
                write_atomically(new / "labels.txt", "\n".join(names) + "\n")
            for name, content in self.files.items():
                write_atomically(new / name, content)
        return Path(folder)


def described(data: Dataset) -> dict[str, Any]:
    """What whoever runs the file needs to know of the data."""
    return {
        "description": data.describe(),
        "input_shape": list(data.input_shape),
        "preprocessing": data.preprocessing.to_dict(),
        "class_names": list(data.class_names) if data.class_names else None,
        "fingerprint": data.fingerprint,
    }
