"""The boundary for untrusted files: any failure while reading one becomes one clear error."""

import json
import re
from collections.abc import Callable
from typing import Any

from tfopt.base.limits import DEEPEST_JSON, LARGEST_JSON, MIB
from tfopt.errors import TfoptError

# Errors whose messages explain themselves.
_SPEAKING = (OSError, ValueError, EOFError)
_LONGEST_REASON = 200
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object in memory: it tells nothing and changes from run to run


class reading:  # noqa: N801 (it is used as a function is)
    """Convert any exception of the block, which reads a file, into the error that `make(reason)` returns.

    Libraries raise nearly anything for a damaged file: RuntimeError, KeyError, struct.error, zlib.error. The exception
    becomes the cause of the error, so a traceback still shows where it happened. Errors of tfopt pass unchanged, and so
    does anything that is not an `Exception`, such as KeyboardInterrupt.
    """

    def __init__(self, make: Callable[[str], TfoptError]) -> None:
        self._make = make

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, TfoptError):
            raise self._make(reason(error)) from error


def reason(error: Exception) -> str:
    """Return the message of an exception as one short line."""
    if isinstance(error, MemoryError):
        return "it needs more memory than is available"
    if isinstance(error, RecursionError):
        return "its parts are nested too deeply"
    text = " ".join(_ADDRESS.sub("", str(error)).split())[:_LONGEST_REASON]
    return text if isinstance(error, _SPEAKING) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def parse_json(text: str | bytes) -> Any:
    """Parse untrusted JSON, bytes as UTF-8; call within `reading`.

    Raises:
        ValueError: the text is not JSON, has more than `LARGEST_JSON` characters, or nests deeper than `DEEPEST_JSON`,
            which would overflow the stack of code that walks it.
    """
    if len(text) > LARGEST_JSON:
        raise ValueError(
            f"{len(text):,} characters of JSON are over the limit of {LARGEST_JSON // MIB} MiB ({LARGEST_JSON:,})"
        )
    too_deep = f"JSON nests deeper than the limit of {DEEPEST_JSON} levels"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level = [value]
    for _ in range(DEEPEST_JSON + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(too_deep)


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
