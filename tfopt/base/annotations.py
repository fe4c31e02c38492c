"""What tfopt remembers about a model object, for as long as the object lives.

Kept beside the models, not in them: Keras tracks a model set as an attribute as a layer, with its weights.
"""

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What is known about one model object.

    Attributes:
        origin: gives the model of the caller's that it came from, so that it can go back later.
        layer_decay: at which it is to be trained by whoever makes its optimizer.
        notes: what a report should say about it.
        summary: what a stage did to it.
        integers: what the weights of its kernels stand for, by layer and kernel.
        layers_left_in_float: the layers that are not quantized, and why.
    """

    origin: Callable[[], Any] | None = None
    layer_decay: float = 1.0
    notes: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    integers: Mapping[Any, Any] | None = None
    layers_left_in_float: Mapping[str, str] = dataclasses.field(default_factory=dict)


_NOTHING = Annotations()
_KNOWN: weakref.WeakKeyDictionary[Any, Annotations] = weakref.WeakKeyDictionary()


def annotations(model: Any) -> Annotations:
    """Return what is known about `model`."""
    return _KNOWN.get(model, _NOTHING)


def annotate(model: Any, **known: Any) -> None:
    """Note fields of `Annotations` about `model`; the others stay what they were."""
    _KNOWN[model] = dataclasses.replace(annotations(model), **known)


def remember(flat_model: Any, like: Any) -> None:
    """Note that `flat_model` came from `like`, for as long as `flat_model` lives.

    `like` lives as long; a model that is its own origin is not kept alive by this.
    """
    annotate(flat_model, origin=weakref.ref(like) if like is flat_model else lambda: like)


def origin(flat_model: Any) -> Any:
    """Return the model that `remember` noted for `flat_model`, None where it noted none."""
    found = annotations(flat_model).origin
    return None if found is None else found()
