"""The messages that docs/errors.md explains are those of the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUOTES = re.findall(r"^```text\n(.*)\n```$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)


def literals(node):
    """The fixed parts of a text in the code, between the values that it is filled with."""
    if isinstance(node, ast.Constant):
        return (node.value,) if isinstance(node.value, str) else ()
    return tuple(part.value for part in node.values if isinstance(part, ast.Constant))


@cache
def texts():
    """The fixed parts of every text in tfopt that has some words."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tfopt").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr))
    return {parts for parts in map(literals, nodes) if sum(map(len, parts)) >= 12}


def covered(quote):
    """The share of the characters of `quote` that are fixed parts of texts which occur in it as a whole."""
    found = set()
    for parts in texts():
        if whole := re.search(".*".join(f"({re.escape(part)})" for part in parts), quote):
            found.update(*(range(*whole.span(number + 1)) for number in range(len(parts))))
    return len(found) / len(quote)


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_one_of_the_code(quote):
    """What is left are the names and numbers of the example."""
    assert covered(quote) > 0.5


def test_messages_are_quoted():
    assert len(QUOTES) > 15


def test_other_words_are_found():
    assert covered("Quantize must be the last stage, for its trained graph is exported.") < 0.5
