"""Safe terminal output: names come from files, and a terminal interprets some characters."""

import contextlib
import functools
import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

# Joiners shape letters and emoji; the other characters of their category reorder or hide text.
_HARMLESS = {"\u200c", "\u200d"}
_WIDEST = 10_000
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidirectional overrides too), surrogates, separators


def plain(text: object, *, lines: bool = False) -> str:
    r"""Return `text` with the characters that a terminal interprets escaped, e.g. "\x1b" for the start of a color.

    Those are control characters, including line breaks (with `lines`, "\n" stays), characters that change the text
    direction or are invisible, and lone surrogates, as in some file names, which cannot be printed.
    """
    return "".join(
        _written_out(char) if _is_obeyed(char) and not (lines and char == "\n") else char for char in str(text)
    )


def keras_message(error: BaseException) -> str:
    """Return what an error of either Keras says, on one line: no colors, no traceback of user code, no arguments."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = re.sub(r"\s*(Call )?arguments received by .*", "", text, flags=re.DOTALL | re.IGNORECASE)
    if "in user code:" in text:
        text = re.split(r"\n\s*\w*(?:Error|Exception): ", text)[-1]
    return " ".join(text.split())


def _is_obeyed(char: str) -> bool:
    return not char.isprintable() and char not in _HARMLESS and unicodedata.category(char) in _OBEYED


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def console(**settings: Any) -> Any:
    """Return a `rich.console.Console` that shows text literally (see `plain`): no markup, emoji codes or highlights."""
    return _console_class()(**{"markup": False, "emoji": False, "highlight": False, **settings})


@functools.cache
def _console_class() -> Any:
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **settings: Any) -> Any:
            """Escape `text`. All strings pass through here, including table cells and titles."""
            return super().render_str(plain(text, lines=True), **settings)

    return PlainConsole


class _Lasting:
    """A stream that goes quiet once nobody reads it any more, instead of raising: its descriptor then leads nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._silence()

    def _silence(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def outlasting_readers() -> Iterator[None]:
    """Let this block go on when the reader of stdout or stderr ends, as in `tfopt run RECIPE | head`."""
    lasting: list[Any] = [_Lasting(sys.stdout), _Lasting(sys.stderr)]
    with contextlib.redirect_stdout(lasting[0]), contextlib.redirect_stderr(lasting[1]):
        yield


def fitting_width(table: Any, least: int) -> int:
    """Return the width in which no cell of a `rich.table.Table` is cut or wrapped, or `least` if that is more."""
    from rich.measure import Measurement

    output = console(width=_WIDEST)
    return max(least, Measurement.get(output, output.options, table).maximum)


def rendered(table: Any, width: int) -> str:
    """Return a `rich.table.Table` as text, `width` characters per line."""
    text = io.StringIO()
    console(file=text, width=width, force_jupyter=False).print(table)  # in a notebook, rich would show it instead
    return text.getvalue()
