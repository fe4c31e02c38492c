"""What differs between two nested values, in words."""

import json
from collections.abc import Iterator
from typing import Any

_LONGEST = 60


def differences(there: Any, here: Any, where: str = "") -> Iterator[str]:
    """Yield a description of each difference between two nested plain values: "training.seed was 0, is 1".

    Args:
        there: the value of before.
        here: the value of now.
        where: the name of both.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            yield from differences(there.get(name), here.get(name), f"{where}.{name}" if where else name)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, pair in enumerate(zip(there, here, strict=True)):
            yield from differences(*pair, f"{where}.{number}" if where else str(number))
    elif there != here:
        yield f"{where} was {_short(there)}, is {_short(here)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:28]}...{text[-28:]}"
