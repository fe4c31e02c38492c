"""Notes that tfopt keeps about a model object, or a layer, while the object lives.

They live next to the model, not in it: Keras tracks a model set as an attribute as a layer, with its weights.
"""

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The notes about one model object.

    Attributes:
        origin: returns the caller's model that it came from, so that it can be converted back.
        layer_decay: the learning-rate decay per layer that its optimizer should apply.
        notes: remarks for a report.
        path: the file or folder that it was read from.
        summary: a description of what a stage did to it.
        integers: what the weights of its kernels represent, by layer and kernel.
        fitting: what its stage asks of its training.
        samples: some of the training inputs with which it was calibrated.
        stripped_of: the stage whose trained ranges it has lost.
        shrinking: what it loses while it is trained.
        student: the model that it trains, used wherever a result is expected.
        preprocessing: what a layer that it has lost did to the samples.
    """

    origin: Callable[[], Any] | None = None
    layer_decay: float = 1.0
    notes: tuple[str, ...] = ()
    path: Path | None = None
    summary: tuple[str, ...] = ()
    integers: Mapping[Any, Any] | None = None
    fitting: Any = None
    samples: Any = None
    stripped_of: str = ""
    student: Any = None
    shrinking: Any = None
    preprocessing: Any = None


_NOTHING = Annotations()
_KNOWN: weakref.WeakKeyDictionary[Any, Annotations] = weakref.WeakKeyDictionary()
_PATHS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def annotations(model: Any) -> Annotations:
    """Return the notes about `model`."""
    return _KNOWN.get(model, _NOTHING)


def annotate(model: Any, **known: Any) -> None:
    """Set fields of the `Annotations` of `model`; leave the others unchanged."""
    _KNOWN[model] = dataclasses.replace(annotations(model), **known)


def remember_path(flat_layer: Any, path: str) -> None:
    """Record where the layer that `flat_layer` came from stands in the caller's model, "outer/inner/layer"."""
    _PATHS[flat_layer] = path


def path_of(flat_layer: Any) -> str:
    """Return the path that `remember_path` recorded for `flat_layer`, or ""."""
    return _PATHS.get(flat_layer, "")


def copy_paths(flat_model: Any, other: Any) -> None:
    """Record for the layers of `other` the paths of those of `flat_model` with the same names."""
    paths = {layer.name: path_of(layer) for layer in flat_model.layers}
    for layer in other.layers:
        if path := paths.get(layer.name):
            remember_path(layer, path)


def trained_model(model: Any) -> Any:
    """Return the model that is trained: the student of what `distill` returned, else `model` itself."""
    student = annotations(model).student
    return model if student is None else student


def remember(flat_model: Any, like: Any) -> None:
    """Record that `flat_model` came from `like`, for as long as `flat_model` lives.

    This keeps `like` alive too, unless the model is its own origin.
    """
    annotate(flat_model, origin=weakref.ref(like) if like is flat_model else lambda: like)


def origin(flat_model: Any) -> Any:
    """Return the model that `remember` recorded for `flat_model`, or None."""
    found = annotations(flat_model).origin
    return None if found is None else found()
