"""Which model of the caller's a tf_keras model came from, so that it can go back later.

Kept beside the models, not in them: Keras tracks a model set as an attribute as a layer, with its weights.
"""

import weakref
from typing import Any

_ORIGINS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def remember(legacy_model: Any, like: Any) -> None:
    """Notes that `legacy_model` came from `like`, for as long as `legacy_model` lives.

    `like` lives as long; a model that is its own origin is not kept alive by this.
    """
    _ORIGINS[legacy_model] = weakref.ref(like) if like is legacy_model else lambda: like


def origin(legacy_model: Any) -> Any:
    """The model that `remember` noted for `legacy_model`, None where it noted none."""
    found = _ORIGINS.get(legacy_model)
    return None if found is None else found()
