"""JSON that every reader takes: without NaN and infinity, which JSON lacks."""

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(values: Any) -> Any:
    """Return plain `values` with None for NaN and infinity, at any depth."""
    if isinstance(values, Mapping):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def json_text(values: Any) -> str:
    """Return plain `values`, finite, as indented JSON that ends in a newline."""
    return json.dumps(finite(values), indent=2, allow_nan=False) + "\n"
