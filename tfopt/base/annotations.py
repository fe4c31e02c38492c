"""What tfopt remembers about a model object, for as long as the object lives.

Kept beside the models, not in them: Keras tracks a model set as an attribute as a layer, with its weights.
"""

import weakref
from typing import Any

_ORIGINS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_DECAYS: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
_NOTES: weakref.WeakKeyDictionary[Any, tuple[str, ...]] = weakref.WeakKeyDictionary()


def remember(legacy_model: Any, like: Any) -> None:
    """Notes that `legacy_model` came from `like`, for as long as `legacy_model` lives.

    `like` lives as long; a model that is its own origin is not kept alive by this.
    """
    _ORIGINS[legacy_model] = weakref.ref(like) if like is legacy_model else lambda: like


def origin(legacy_model: Any) -> Any:
    """The model that `remember` noted for `legacy_model`, None where it noted none."""
    found = _ORIGINS.get(legacy_model)
    return None if found is None else found()


def remember_decay(model: Any, decay: float) -> None:
    """Notes the `decay` at which `model` is to be trained by whoever makes its optimizer."""
    _DECAYS[model] = decay


def decay_of(model: Any) -> float:
    """The decay that `remember_decay` noted for `model`, 1 where it noted none."""
    return _DECAYS.get(model, 1.0)


def remember_notes(model: Any, notes: tuple[str, ...]) -> None:
    """Notes what a report should say about `model`."""
    _NOTES[model] = notes


def notes_about(model: Any) -> tuple[str, ...]:
    """What a report should say about `model` where it was made of a TF-Hub module."""
    return _NOTES.get(model, ())
