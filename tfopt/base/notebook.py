"""Output for notebooks: tables as HTML, and a progress bar that needs no widgets."""

import time
from collections.abc import Iterable
from html import escape
from typing import Any

from tfopt.base.terminal import plain

_STYLE = "text-align: {}; vertical-align: top; white-space: pre-wrap"
_PAUSE = 0.2
"""Seconds between two updates of a bar; each is a message to the browser."""


def table_html(table: Any, lines: Iterable[str] = ()) -> str:
    """Return a `rich.table.Table` as HTML for a notebook, with `lines` of text below it; everything is escaped."""
    columns = table.columns
    head = "".join(f'<th style="{_STYLE.format(column.justify)}">{_escaped(column.header)}</th>' for column in columns)
    rows = zip(*(column.cells for column in columns), strict=True)
    body = "".join(f"<tr>{''.join(map(_cell, columns, row))}</tr>" for row in rows)
    title, caption = (f"<p><b>{_escaped(text)}</b></p>" if text else "" for text in (table.title, table.caption))
    below = "".join(f"<li>{_escaped(line)}</li>" for line in lines)
    notes = f"<ul>{below}</ul>" if below else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{caption}{notes}"


def _cell(column: Any, text: Any) -> str:
    return f'<td style="{_STYLE.format(column.justify)}">{_escaped(text)}</td>'


def _escaped(text: Any) -> str:
    return escape(plain(text, lines=True)).replace("\n", "<br>")


class NotebookBar:
    """A progress bar in the output of a notebook cell, which disappears when it stops.

    Args:
        title: before the bar.
        total: number of steps; None if unknown.
        done: steps that are finished already, which do not count for the time left.
    """

    def __init__(self, title: str, total: int | None, done: int = 0) -> None:
        from IPython.display import display  # a notebook has it

        self._title, self._total, self._before = title, total, done
        self._started = self._shown = time.perf_counter()
        self._handle = display(self._html(done), display_id=True)

    def update(self, done: int, title: str | None = None) -> None:
        """Show that `done` steps are finished."""
        self._title = title or self._title
        if (now := time.perf_counter()) - self._shown > _PAUSE:
            self._shown = now
            self._handle.update(self._html(done))

    def stop(self) -> None:
        """Remove the bar."""
        from IPython.display import HTML

        self._handle.update(HTML(""))

    def _html(self, done: int) -> Any:
        from IPython.display import HTML

        known = f'max="{self._total}" value="{done}"' if self._total else ""
        of = f"{done} of {self._total}" if self._total else str(done)
        return HTML(f"<div>{_escaped(self._title)} <progress {known}></progress> {of}{self._left(done)}</div>")

    def _left(self, done: int) -> str:
        new = done - self._before
        if not new or not self._total:
            return ""
        return f", {(time.perf_counter() - self._started) * (self._total - done) / new:.0f} s left"
