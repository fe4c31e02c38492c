"""The form of error messages: a capital letter first, a full stop (or a question mark) last.

A message may begin with the name of its subject: a value (a path, a model), an option, an argument. It may end with
another message after a colon, or with advice that is a sentence.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest

from tfopt import errors

ROOT = Path(__file__).parent.parent
CLASSES = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
VALUE = "\0"
BEGINS = re.compile(rf"""[A-Z]|'?{VALUE}|--[a-z]|[a-z]+(_[a-z]+)+\b|[a-z_]+=""")
ENDS = re.compile(rf"""[.?]|(^|[:.;?] ){VALUE}""")


def literal(node):
    """The text of a message, with VALUE for what is inserted; None for one that is made elsewhere."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return node.value if isinstance(node, ast.Constant) else None


def messages(source):
    """(line, text) of every error of tfopt.errors that `source` raises."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES and node.args:
            text = literal(node.args[0])
            if text is not None:
                yield node.lineno, text


def faults(source):
    for line, text in messages(source):
        if not BEGINS.match(text):
            yield line, "begins with a small letter", text
        if not re.search(rf"({ENDS.pattern})$", text):
            yield line, "has no full stop", text


def test_messages_begin_with_a_capital_letter_and_end_with_a_full_stop():
    files = {path.relative_to(ROOT / "tfopt").as_posix(): path for path in (ROOT / "tfopt").rglob("*.py")}
    sources = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    assert sum(len(list(messages(source))) for source in sources.values()) > 400
    found = [(f"tfopt/{name}:{line}", *what) for name, source in sources.items() for line, *what in faults(source)]
    assert found == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("'Expected two; got one.'", None),
        ("f'{path}: no such file.'", None),
        ("f\"'{name}' has no layers.\"", None),
        ("'batch_size must be at least 1.'", None),
        ("f'depth={depth} changes nothing.'", None),
        ("'--data needs --model.'", None),
        ("f'The model cannot be saved: {error}'", None),
        ("'expected two; got one.'", "begins with a small letter"),
        ("f'model {name} has no layers.'", "begins with a small letter"),
        ("'Expected two; got one'", "has no full stop"),
        ("f'Expected two; got {count}'", "has no full stop"),
    ],
)
def test_faults_are_found(message, fault):
    found = [what for _, what, _ in faults(f"def f():\n    raise ModelError({message}) from None")]
    assert found == ([] if fault is None else [fault])
