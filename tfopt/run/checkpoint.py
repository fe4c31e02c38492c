"""What an interrupted run has reached, in one file, so that the same run can go on from there."""

import dataclasses
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from tfopt.base.archives import read_npz
from tfopt.base.files import atomic_path
from tfopt.base.keras_compat import is_tf_keras_model
from tfopt.base.reading import reading
from tfopt.errors import DataError, ModelError
from tfopt.evaluate.report import Row
from tfopt.models import load_model, save_model


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds.

    Attributes:
        weights: of the flat model; empty where `model` has them.
        rows: of the report so far.
        model: the flat model as a `.keras` file, where a stage may have resized it.
    """

    weights: list[np.ndarray]
    rows: list[Row]
    model: bytes | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A file for one run; `key` tells the run (recipe, data, model) from all others."""

    path: Path
    key: str

    def save(self, flat_model: Any, rows: list[Row], *, resized: bool = False) -> None:
        """Write the weights of the flat model after a stage, and the report so far; atomically.

        Args:
            flat_model: of tf_keras, without wrappers.
            rows: the report so far.
            resized: write the whole model, because layers may have other sizes than at the start.

        Raises:
            ModelError: the model cannot be written.
        """
        if resized:
            arrays: dict[str, Any] = {"model": np.frombuffer(_as_file(flat_model), np.uint8)}
        else:
            arrays = {f"weight_{i}": weight for i, weight in enumerate(flat_model.get_weights())}
        rows_as_json = json.dumps([dataclasses.asdict(row) for row in rows])
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=self.key, rows=rows_as_json, **arrays)

    def load(self) -> Kept | None:
        """What `save` wrote last; None when there is nothing, or something of another run.

        Raises DataError for a file that `save` did not write, or that was damaged since.
        """
        if not self.path.exists():
            return None
        with reading(self.damaged):
            return self._read()

    def _read(self) -> Kept | None:
        stored = read_npz(self.path)
        if str(stored["key"]) != self.key:
            return None
        rows = TypeAdapter(list[Row]).validate_json(str(stored["rows"]), strict=True)
        number = sum(name.startswith("weight_") for name in stored)
        model = stored["model"].astype(np.uint8).tobytes() if "model" in stored else None
        return Kept([stored[f"weight_{i}"] for i in range(number)], rows, model)

    def resumed(self, kept: Kept, start: Any, *, resized: bool) -> Any:
        """Return the flat model to go on with.

        Args:
            kept: what `load` returned.
            start: the flat model that the run began with. It takes the kept weights, unless stages resized it.
            resized: whether a finished stage may have changed the sizes of layers.

        Raises:
            DataError: what was kept is not of a model with the layers of `start`.
        """
        if resized:
            return self._whole_model(kept, start)
        shapes = [weight.shape for weight in start.get_weights()]
        if [w.shape for w in kept.weights] != shapes or any(w.dtype.kind not in "biuf" for w in kept.weights):
            raise self.damaged("its weights do not fit the model")
        start.set_weights(kept.weights)
        return start

    def _whole_model(self, kept: Kept, start: Any) -> Any:
        if kept.model is None:
            raise self.damaged("it holds no model")
        try:
            with reading(self.damaged), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.keras"
                path.write_bytes(kept.model)
                model = load_model(path, custom_objects=_own_classes(start))
        except ModelError as error:
            raise self.damaged(f"its model cannot be loaded: {error}") from error
        if not is_tf_keras_model(model) or _outline(model) != _outline(start):
            raise self.damaged("its model has other layers")
        return model

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


def _as_file(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save_model(model, path)
        return path.read_bytes()


def _own_classes(model: Any) -> dict[str, Any]:
    """The classes of layers that neither tf_keras nor tfopt brings, by name: the caller's model has them."""
    kinds = {type(layer) for layer in model.layers}
    return {kind.__name__: kind for kind in kinds if kind.__module__.partition(".")[0] not in ("tf_keras", "tfopt")}


def _outline(model: Any) -> Any:
    """What no stage changes, resizing or not; names of inputs do not matter, and Keras counts them on."""
    layers = [(layer.name, type(layer).__name__) for layer in model.layers if type(layer).__name__ != "InputLayer"]
    return layers, model.input_shape, model.output_shape
