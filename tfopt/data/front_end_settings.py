"""Settings of front ends as texts: ngrams=2."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tfopt.data.folder import RECORDINGS, FileKind
from tfopt.data.front_end import FrontEnd
from tfopt.data.sound import Sound
from tfopt.data.sources import TABLE, has_columns, holds_raw_arrays, raw_kind
from tfopt.data.table import Table
from tfopt.data.text import Text
from tfopt.errors import DataError

SETTINGS: dict[type[FrontEnd], tuple[str, ...]] = {
    Text: ("vocabulary_size", "length", "ngrams"),
    Sound: ("rate", "seconds", "features", "frame", "hop", "mels", "lowest", "highest", "coefficients"),
    Table: ("categories", "most_categories"),
}
"""The fields that texts set; others are columns, which have options, or what is learned from the data."""
_LISTED = "; ".join(f"of {cls.subject}: {', '.join(names)}" for cls, names in SETTINGS.items())
_WORDS = {int: "a whole number", float: "a number", NoneType: "null"}


def front_end_of(texts: Iterable[str], source: Any) -> FrontEnd:
    """Return a front end with other settings than the default ones; the settings say which one it is.

    Args:
        texts: SETTING=VALUE each. A value is JSON (2, 0.5, null) or a bare word; names of columns have commas between
            them.
        source: what it is to read, as for `load_data`.

    Raises:
        DataError: a field is unknown or does not accept the value, fields are of several front ends, or the source has
            no samples that the front end reads.
    """
    pairs = dict(_pair(text) for text in texts)
    cls = next((cls for cls, names in SETTINGS.items() if set(pairs) <= set(names)), None)
    if cls is None:
        raise DataError(f"Expected fields of one kind for --input, got {', '.join(pairs)}. There are, {_LISTED}.")
    hints = get_type_hints(cls)
    values = {name: _value(name, text, hints[name]) for name, text in pairs.items()}
    try:
        front_end = cls(**values)
    except DataError as error:
        raise DataError(f"{error} The fields for --input are, {_LISTED}.") from error
    if (found := _other_samples(source, cls)) is not None:
        raise DataError(f"Expected {cls.subject} for --input {', '.join(pairs)}, got {found}; leave it out.")
    return front_end


def require_read(data_front_end: FrontEnd, front_end: FrontEnd) -> None:
    """Raise `DataError` unless the front end of loaded data is of the kind of the one that was to read them."""
    if data_front_end.kind != front_end.kind:
        raise DataError(f"Expected {front_end.subject} for --input, got {data_front_end.describe()}; leave it out.")


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not any(name in names for names in SETTINGS.values()):
        raise DataError(f"Expected --input as SETTING=VALUE, such as ngrams=2, got {text!r}. There are, {_LISTED}.")
    return name, value


def _value(name: str, text: str, hint: Any) -> Any:
    """Return the value of a field with the type `hint` that `text` says."""
    if get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(","))
    if get_origin(hint) is Literal:
        return text  # the front end says which it takes
    kinds = get_args(hint) or (hint,)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    value = float(value) if float in kinds and type(value) is int else value
    if type(value) not in kinds:
        wanted = " or ".join(_WORDS[kind] for kind in kinds)
        raise DataError(f"Expected {name} as {wanted} for --input, got {text!r}. The fields are, {_LISTED}.")
    return value


def _other_samples(source: Any, cls: type[FrontEnd]) -> str | None:
    """Return what `source` has instead of samples for `cls`; None if it may have these."""
    kind = raw_kind(source)
    if kind == TABLE:
        return None if cls in (Text, Table) else f"the table {source}"
    if isinstance(kind, FileKind):
        return None if cls is (Sound if kind is RECORDINGS else Text) else f"{kind.name}s in {source}"
    if has_columns(source) or holds_raw_arrays(source):
        return None
    return f"images or numbers in {source}"
