"""Every command line of the documentation names commands and options that exist."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tfopt.cli import main

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))


def lines(text):
    """The calls of tfopt in the shell blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("tfopt ")]


def parse(line):
    """Raise click's `UsageError` for a command or an option that does not exist."""
    group, rest = parsed(main, shlex.split(line, comments=True)[1:], parent=None)
    if rest:
        _, command, arguments = main.resolve_command(group, rest)
        parsed(command, arguments, parent=group)


def parsed(command, arguments, parent):
    """The context of a command, and its arguments without the options, whose values are not looked at."""
    settings = {"allow_interspersed_args": command.allow_interspersed_args, **command.context_settings}
    context = click.Context(command, parent=parent, **settings)
    return context, command.make_parser(context).parse_args(list(arguments))[1]


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in lines(page.read_text(encoding="utf-8"))}))
def test_a_documented_command_line_parses(line):
    parse(line)


def test_blocks_are_found():
    assert lines("```sh\ntfopt pack x\nmake\n```\n```python\ntfopt run\n```\n") == ["tfopt pack x"]


@pytest.mark.parametrize("line", ["tfopt paint x.keras", "tfopt run prune --speed 2", "tfopt --imports a run prune"])
def test_what_does_not_exist_is_found(line):
    with pytest.raises(click.UsageError):
        parse(line)
