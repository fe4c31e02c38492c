"""What a notebook shows: tables as escaped HTML, and a bar that follows the work."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.table import Table

from tfopt.base import notebook
from tfopt.base.notebook import NotebookBar, table_html
from tfopt.base.progress import Progress, TerminalBar, live_bar

EVIL = "<script>alert(1)</script> & \x1b[2J"
SHOWN = r"&lt;script&gt;alert(1)&lt;/script&gt; &amp; \x1b[2J"


def test_everything_in_a_table_is_escaped():
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL)
    table.add_column("n", justify="right")
    table.add_row(EVIL, "1\n2")
    html = table_html(table, [EVIL])
    assert "<script" not in html and html.count(SHOWN) == 5
    assert html.count("<tr>") == 2 and html.count("text-align: right") == 2 and "1<br>2" in html


@pytest.fixture
def shown(monkeypatch):
    """What the bar shows, the last version last."""
    versions = []
    handle = SimpleNamespace(update=versions.append)
    display = ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda html, display_id: versions.append(html) or handle
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return versions


def test_a_bar_in_a_notebook(shown, monkeypatch):
    monkeypatch.setattr(notebook, "_PAUSE", -1)
    bar = live_bar(SimpleNamespace(quiet=False, is_jupyter=True), EVIL, 10)
    assert isinstance(bar, NotebookBar)
    bar.update(5)
    bar.stop()
    first, half, end = shown
    assert SHOWN in first and 'max="10" value="0"' in first and "left" not in first
    assert 'value="5"' in half and "5 of 10, 0 s left" in half
    assert end == ""


def test_updates_are_not_too_many(shown):
    bar = NotebookBar("fit", 1000)
    for done in range(1000):
        bar.update(done)
    assert len(shown) < 100


def test_a_bar_without_a_total(shown, monkeypatch):
    monkeypatch.setattr(notebook, "_PAUSE", -1)
    NotebookBar("fit", None).update(7)
    assert "<progress ></progress> 7<" in shown[-1]


@pytest.mark.parametrize(
    ("quiet", "terminal", "expected"), [(True, True, None), (False, False, None), (False, True, TerminalBar)]
)
def test_a_bar_in_a_terminal_only(quiet, terminal, expected):
    output = Progress(quiet=quiet).console
    output._force_terminal = terminal
    bar = live_bar(output, "fit", 3)
    assert type(bar) is (expected or type(None))
    if bar:
        bar.update(1)
        bar.stop()
