"""The state of a scikit-learn estimator that decides its answers, as a fingerprint."""

import hashlib
import io
import pickle
from typing import Any

import numpy as np
from typing_extensions import override

_RANDOM = (np.random.RandomState, np.random.Generator, np.random.BitGenerator)


def state_fingerprint(estimator: Any) -> str | None:
    """Return the SHA-256 (hex) of what decides the answers of a fitted estimator; None if it cannot be pickled."""
    content = io.BytesIO()
    try:
        _Pickler(content, protocol=5).dump(estimator)
    except Exception:  # it holds what cannot be pickled, such as a lambda
        return None
    return hashlib.sha256(content.getvalue()).hexdigest()


class _Pickler(pickle.Pickler):
    """Leave out what changes without changing the answers."""

    @override
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, _RANDOM):  # of fit only, and often the global one of NumPy
            return str, (type(thing).__name__,)
        if hasattr(thing, "get_tree_stats") and hasattr(thing, "get_arrays"):  # a KDTree or BallTree counts its calls
            return list, ([np.asarray(array) for array in thing.get_arrays()],)
        return NotImplemented
