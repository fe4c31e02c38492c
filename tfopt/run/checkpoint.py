"""The progress of an interrupted run in one file, from which the same run can resume."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from tfopt import bridge
from tfopt.base.annotations import copy_paths
from tfopt.base.archives import read_state
from tfopt.base.files import atomic_path
from tfopt.base.keras_compat import is_tf_keras_model
from tfopt.base.reading import reading
from tfopt.errors import DataError, ModelError
from tfopt.evaluate.report import Row
from tfopt.graph.types import Ref
from tfopt.graph.walk import walk
from tfopt.models import load_model, save_model
from tfopt.run.judge import Evaluation

_NAMES = ("name", "registered_name", "key")
_PARTS = ("best_parts", "best_parts_numbers", "best_parts_by_sample")


@dataclass(frozen=True)
class Kept:
    """The contents of a checkpoint.

    Attributes:
        weights: of the flat model; empty if `model` contains them.
        rows: of the report so far.
        model: the flat model as a `.keras` file, if a stage may have resized it.
        recipe: as JSON, with the stages as they were carried out; "" if unknown.
        best: the best model so far on validation data; None if unknown.
    """

    weights: list[np.ndarray]
    rows: list[Row]
    model: bytes | None = None
    recipe: str = ""
    best: Evaluation | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file for one run; `key` identifies the run (recipe, data, model)."""

    path: Path
    key: str

    def save(
        self,
        flat_model: Any,
        rows: list[Row],
        *,
        resized: bool = False,
        recipe: str = "",
        best: Evaluation | None = None,
    ) -> None:
        """Write the weights of the flat model after a stage and the report so far, atomically.

        Args:
            flat_model: of tf_keras, without wrappers.
            rows: the report so far.
            resized: write the whole model, because layer sizes may have changed.
            recipe: as JSON, with the stages as they were carried out.
            best: the best model so far on validation data.

        Raises:
            ModelError: the model cannot be written.
        """
        if resized:
            arrays: dict[str, Any] = {"model": np.frombuffer(as_file(flat_model), np.uint8)}
        else:
            arrays = {f"weight_{i}": weight for i, weight in enumerate(flat_model.get_weights())}
        if best is not None and best.by_sample is not None:
            arrays |= {"best": np.array([best.metric, best.quality]), "best_by_sample": best.by_sample}
            arrays |= _parts_stored(best.parts)
        rows_as_json = json.dumps([dataclasses.asdict(row) for row in rows])
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=self.key, rows=rows_as_json, recipe=recipe, **arrays)

    def load(self) -> Kept | None:
        """Return what `save` wrote last; None if there is nothing, or the file belongs to another run.

        Raises:
            DataError: a file that `save` did not write, or that is damaged.
        """
        if not self.path.exists():
            return None
        with reading(self.damaged):
            return self._read()

    def _read(self) -> Kept | None:
        stored = read_state(self.path)
        if str(stored["key"]) != self.key:
            return None
        rows = TypeAdapter(list[Row]).validate_json(str(stored["rows"]), strict=True)
        model = stored["model"].astype(np.uint8).tobytes() if "model" in stored else None
        recipe = str(stored["recipe"]) if "recipe" in stored else ""
        best = self._best(stored) if "best" in stored else None
        return Kept(_numbered(stored, "weight_"), rows, model, recipe, best)

    def _best(self, stored: Mapping[str, np.ndarray]) -> Evaluation:
        parts = {
            str(name): self._evaluation(numbers, by_sample)
            for name, numbers, by_sample in zip(*(stored.get(name, ()) for name in _PARTS), strict=True)
        }
        return dataclasses.replace(self._evaluation(stored["best"], stored["best_by_sample"]), parts=parts)

    def _evaluation(self, numbers: np.ndarray, by_sample: np.ndarray) -> Evaluation:
        numbers, by_sample = numbers.astype(np.float64), by_sample.astype(np.float64)
        if numbers.shape != (2,) or by_sample.ndim != 1 or not np.isfinite([*numbers, *by_sample]).all():
            raise self.damaged("the evaluation of its best model cannot be read")
        return Evaluation(float(numbers[0]), float(numbers[1]), by_sample)

    def resumed(self, kept: Kept, start: Any, *, resized: bool, restructured: bool = False) -> Any:
        """Return the flat model to resume with.

        Args:
            kept: from `load`.
            start: the flat model that the run began with. It is not changed.
            resized: whether a finished stage may have changed layer sizes.
            restructured: whether one may have removed or added layers.

        Returns:
            A flat model with the kept weights.

        Raises:
            DataError: the kept model does not have the layers of `start`, or its inputs and outputs if `restructured`.
        """
        if resized:
            return self._whole_model(kept, start, restructured=restructured)
        shapes = [weight.shape for weight in start.get_weights()]
        if [w.shape for w in kept.weights] != shapes or any(w.dtype.kind not in "biuf" for w in kept.weights):
            raise self.damaged("its weights do not fit the model")
        model = bridge.clone(start)
        model.set_weights(kept.weights)
        return model

    def _whole_model(self, kept: Kept, start: Any, *, restructured: bool) -> Any:
        if kept.model is None:
            raise self.damaged("it holds no model")
        try:
            with reading(self.damaged):
                model = loaded_model(kept.model, start)
        except ModelError as error:
            raise self.damaged(f"its model cannot be loaded: {error}") from error
        same = _ends if restructured else _outline
        if not is_tf_keras_model(model) or same(model) != same(start):
            raise self.damaged("its model has other layers")
        copy_paths(start, model)
        return model

    def damaged(self, why: str) -> DataError:
        """Return the error for a checkpoint that no run can resume from."""
        return DataError(f"The checkpoint {self.path} is damaged ({why}).")


def _parts_stored(parts: Mapping[str, Evaluation]) -> dict[str, np.ndarray]:
    if not parts:
        return {}
    numbers = np.array([[part.metric, part.quality] for part in parts.values()])
    by_sample = np.array([part.by_sample for part in parts.values()], np.float64)
    return dict(zip(_PARTS, (np.array(list(parts)), numbers, by_sample), strict=True))


def _numbered(stored: Mapping[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) and name.removeprefix(prefix).isdigit() for name in stored)
    return [stored[f"{prefix}{i}"] for i in range(count)]


def structure_of(model: Any) -> Any:
    """Return the layers of a model, their settings and how they are connected, as plain data.

    Names are left out, because Keras numbers them, and so are the keys of what is carried.
    """
    graph = walk(model)
    places = {id(leaf): place for place, leaf in enumerate(graph.leaves)}
    layers = [_settings(leaf.layer) for leaf in graph.leaves]
    calls = [[places[id(call.leaf)], _unnamed([call.args, call.kwargs, call.outputs])] for call in graph.calls]
    return [layers, calls, _unnamed([graph.inputs_struct, graph.outputs_struct])]


def _settings(layer: Any) -> list[Any]:
    try:
        settings = layer.get_config()
    except Exception:  # of the caller's class
        settings = {}
    return [type(layer).__name__, _unnamed(settings)]


def _unnamed(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {str(key): _unnamed(value) for key, value in part.items() if key not in _NAMES}
    if isinstance(part, list | tuple):
        return [_unnamed(each) for each in part]
    if isinstance(part, Ref):
        return {"tensor": part.number}
    if isinstance(part, np.ndarray | np.generic):
        return part.tolist()
    return part if part is None or isinstance(part, bool | int | float | str) else type(part).__name__


def as_file(model: Any) -> bytes:
    """Return `model` as the contents of a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save_model(model, path)
        return path.read_bytes()


def loaded_model(content: bytes, like: Any) -> Any:
    """Return the model that `as_file` wrote; `like` is one with the same layer classes of the caller."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(path, custom_objects=_own_classes(like))


def _own_classes(model: Any) -> dict[str, Any]:
    """Return the caller's layer classes, which come from neither tf_keras nor tfopt, by name."""
    layers = [one for layer in model.layers for one in (layer, getattr(layer, "operation", None))]  # what it carries
    kinds = {type(layer) for layer in layers if layer is not None}
    return {
        kind.__name__: kind for kind in kinds if kind.__module__.partition(".")[0] not in ("tf_keras", "tfopt", "keras")
    }


def _ends(model: Any) -> Any:
    return model.input_shape, model.output_shape


def _outline(model: Any) -> Any:
    """Return what no stage changes, even by resizing; without input names, which Keras numbers consecutively."""
    layers = [(layer.name, type(layer).__name__) for layer in model.layers if type(layer).__name__ != "InputLayer"]
    return layers, _ends(model)
