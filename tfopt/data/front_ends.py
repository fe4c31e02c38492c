"""The kinds of front ends by name, and how a saved one is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfopt.data.front_end import FrontEnd, ReadFile
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.sound import Sound
from tfopt.data.table import Table
from tfopt.data.text import Text
from tfopt.errors import DataError

KINDS: dict[str, type[FrontEnd]] = {cls.kind: cls for cls in (Preprocessing, Text, Sound, Table)}


def front_end_from(values: Mapping[str, Any], read: ReadFile) -> FrontEnd:
    """Return the front end whose `to_dict` gave `values`.

    Args:
        values: without a "kind" they are those of a `Preprocessing`.
        read: returns the content of a file saved with it, by name.

    Raises:
        DataError: the kind is unknown, or the values or the files are not those of a front end.
    """
    kind = values.get("kind", Preprocessing.kind)
    if kind not in KINDS:
        raise DataError(f"Expected a preprocessing of the kind {', '.join(KINDS)}, got {kind!r}.")
    return KINDS[kind].from_dict(values, read)
