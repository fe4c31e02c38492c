"""The result of a run."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from tfopt import models
from tfopt.base.files import output_folder, write_atomically
from tfopt.base.finite_json import json_text
from tfopt.data import Dataset
from tfopt.data.arrays_by_name import map_arrays
from tfopt.data.stated_series import series_of
from tfopt.errors import ModelError
from tfopt.evaluate.page.single import report_page
from tfopt.evaluate.report import Report
from tfopt.run.epochs import epochs_csv
from tfopt.run.guard import Verdict
from tfopt.run.recipe import Recipe
from tfopt.run.run_folder import RunFolder
from tfopt.tflite.read import LiteModel


@dataclass(frozen=True)
class Result:
    """The result of `optimize`.

    Attributes:
        model: the compressed model, in the caller's Keras; its kernels hold the values of the file.
        lite: the `.tflite`.
        report: a row per step.
        recipe: as it was carried out.
        data: description of the data set and the preprocessing, in words.
        files: other files to save, by name.
        verdict: whether the run kept the quality of the model.
        checkpoint: what `save` removes once everything is written; None if the run had none.
        writes: whether `save` writes anything; of several workers only the chief does.

    Examples:
        >>> result = tfopt.optimize(model, tfopt.PostTraining(rounding="nearest"), data, quiet=True)
        >>> isinstance(result, tfopt.Result), result.verdict.ok
        (True, True)
        >>> print(result)
        Result(recipe: exported int8, accuracy ...; ...; ... bytes)
        >>> folder = result.save("saved_models/digits")
        >>> sorted(file.name for file in folder.iterdir())
        ['data.json', 'labels.txt', 'model.keras', 'model.tflite', 'recipe.json', 'report.html', 'report.json']
    """

    model: Any
    lite: LiteModel
    report: Report
    recipe: Recipe
    data: dict[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    checkpoint: RunFolder | None = None
    writes: bool = True

    def __repr__(self) -> str:
        """Return the report in short, the verdict and the size of the file, not their contents."""
        verdict = "failed" if not self.verdict.ok else "uncertain" if self.verdict.text else "passed"
        return f"Result({self.report.summary()}; {verdict}; {self.lite.size:,} bytes)"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the files of the result into `folder`.

        All or nothing: the files appear in the folder once all of them are written. Always there are `model.tflite`,
        `model.keras`, `recipe.json`, `report.json`, `report.html`, which shows it in a browser without a network, and
        `data.json`. Also `epochs.csv`, a row per stage and epoch, if there was training; `labels.txt`, a class name per
        line in output order, if the classes have names; `vocabulary.txt` for texts; what a transfer adds, such as
        `depth_study.json`; and `STAGE_not_kept.keras` if the verdict is against a stage. If Keras cannot save the
        model, `model.keras` is missing, with a warning and a note in the report.

        Returns:
            The folder.

        Raises:
            OutputError: the folder exists (unless `overwrite`) or cannot be written.
        """
        if not self.writes:
            return Path(folder)
        with output_folder(folder, overwrite=overwrite) as new:
            self._write_main(new)
            if not self._saves_model(new / "model.keras"):
                self._write_main(new)  # with a note
            if epochs := epochs_csv(self.report):
                write_atomically(new / "epochs.csv", epochs)
            write_atomically(new / "data.json", json_text(self.data))
            if names := self.data["class_names"]:
                write_atomically(new / "labels.txt", "\n".join(names) + "\n")
            for name, content in self.files.items():
                write_atomically(new / name, content)
        if self.checkpoint:
            self.checkpoint.remove_finished()
        return Path(folder)

    def _write_main(self, folder: Path) -> None:
        for name, content in self.main_files().items():
            write_atomically(folder / name, content)

    def _saves_model(self, path: Path) -> bool:
        """Write the model, or a note to the report if Keras cannot: the finished file is worth more."""
        try:
            models.save_model(self.model, path)
        except ModelError as error:
            note = f"{path.name} is missing: {error}"
            self.report.rows[-1].notes.append(note)
            warnings.warn(note, stacklevel=3)
            return False
        return True

    def main_files(self) -> dict[str, bytes]:
        """Return the `.tflite`, the recipe and the report, by file name."""
        texts = {
            "recipe.json": self.recipe.to_json(),
            "report.json": self.report.to_json(),
            "report.html": self._page(),
        }
        return {"model.tflite": self.lite.data, **{name: text.encode() for name, text in texts.items()}}

    def _page(self) -> str:
        try:
            return report_page(self.report)
        except Exception as error:  # a page is not worth a result that took hours
            warnings.warn(f"report.html could not be made: {type(error).__name__}: {error}.", stacklevel=3)
            return f"<!doctype html><title>tfopt</title><p>This page could not be made: {escape(str(error))}"


def described(data: Dataset) -> dict[str, Any]:
    """Return what users of the file need to know about the data."""
    return {
        "description": data.describe(),
        "input_shape": map_arrays(list, data.train.shapes),
        "preprocessing": data.preprocessing.to_dict(),
        "class_names": list(data.class_names) if data.class_names else None,
        "mask_values": list(data.mask_values) if data.mask_values else None,
        "series": series_of(data),
        "fingerprint": data.fingerprint,
    }
