"""Docstrings begin with a verb, and those of public names say what a function takes and raises."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = frozenset(re.findall(r"`tfopt\.(?:[a-z_]+\.)?(\w+)`", (ROOT / "docs" / "names.md").read_text(encoding="utf-8")))
UNDOCUMENTED = {"self", "cls"}
# The words that docstrings of functions begin with: verbs in the imperative. Add one that is missing.
WORDS = """
    Add Allow Alternate Answer Apply Ask Attach Benchmark Bind Build Call Carry Cast Change Check Choose Claim Clear
    Clip Close Collect Combine Compare Compile Complete Compress Compute Continue Convert Copy Count Create Cut Decide
    Decode Delete Describe Determine Distill Divide Do Download Draw Drop Empty End Enter Entropy-code Escape
    Estimate Evaluate Execute Exit Expand Export Extract Fail Fill Find Fit Flatten Fold Follow Forget Format Freeze
    Fuse Get Give Group Hand Hold Implement Import Infer Initialize Insert Inspect Install Invert Join Keep Learn
    Let Limit List Load Locate Log Look Lower Make Map Mark Match Measure Merge Minimize Mix Move Multiply Name
    Normalize Note Observe Open Order Override Pack Pad Pair Parse Pass Patch Place Plan Plot Predict Prepare
    Preserve Print Produce Prune Put Quantize Raise Rank Read Rebuild Recompute Record Reduce Refuse Register Reject
    Release Remove Rename Render Replace Report Reset Reshape Resolve Restore Resume Return Rotate Round Run Save
    Scale Scan Score Select Send Serve Set Shift Show Silence Skip Solve Sort Split Stack Start State Stop Store Strip
    Suggest Summarize Suppress Take Tell Tie Time Trace Train Translate Trim Try Tune Turn Undo Unpack Unroll Update Use
    Validate Verify Wait Walk Warn Wrap Write Yield
"""
VERBS = frozenset(WORDS.split())
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass(frozen=True)
class Public:
    """A function or method that users call: where it is, its name with its class, and the same method of its bases."""

    place: str
    name: str
    node: Function
    inherited: tuple[Function, ...] = ()

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""


def definitions(sources: dict[str, str]) -> dict[str, list[tuple[str, Definition]]]:
    """(place, definition) of everything at the top of a file, by name."""
    found: dict[str, list[tuple[str, Definition]]] = {}
    for path, text in sources.items():
        for node in ast.parse(text).body:
            if isinstance(node, Definition):
                found.setdefault(node.name, []).append((path, node))
    return found


def public(known: dict[str, list[tuple[str, Definition]]], names: frozenset[str]) -> Iterator[Public]:
    """The functions called one of `names`, and the public methods of such classes."""
    for name in sorted(names & known.keys()):
        for path, node in known[name]:
            if isinstance(node, ast.ClassDef):
                yield from methods(known, path, node)
            elif "command" not in decorators(node):  # docs of commands are help texts
                yield Public(f"{path}:{node.lineno}", name, node)


def methods(known: dict[str, list[tuple[str, Definition]]], path: str, cls: ast.ClassDef) -> Iterator[Public]:
    for node in functions(cls):
        if not node.name.startswith("_"):
            above = tuple(each for base in bases(known, cls) for each in functions(base) if each.name == node.name)
            yield Public(f"{path}:{node.lineno}", f"{cls.name}.{node.name}", node, above)


def functions(cls: ast.ClassDef) -> list[Function]:
    return [node for node in cls.body if isinstance(node, Function) and "overload" not in decorators(node)]


def decorators(node: Definition) -> set[str]:
    return {re.sub(r"\(.*", "", ast.unparse(each), flags=re.DOTALL).rpartition(".")[2] for each in node.decorator_list}


def bases(known: dict[str, list[tuple[str, Definition]]], cls: ast.ClassDef) -> list[ast.ClassDef]:
    """All classes of tfopt that `cls` derives from."""
    names = {re.sub(r"\[.*", "", ast.unparse(base)).rpartition(".")[2] for base in cls.bases}
    direct = [node for name in names for _, node in known.get(name, []) if isinstance(node, ast.ClassDef)]
    return [*direct, *(above for base in direct if base is not cls for above in bases(known, base))]


def arguments(node: Function) -> list[str]:
    given = node.args
    plain = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in plain if name not in UNDOCUMENTED and not name.startswith("_")]


def raised(node: ast.AST) -> set[str]:
    """The names of the errors that the body of a function raises itself, not in the functions inside it."""
    found = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and isinstance(child.exc.func, ast.Name):
            found.add(child.exc.func.id)
        found |= raised(child)
    return {name for name in found if name.endswith("Error")} - {"NotImplementedError"}


def section(text: str, title: str) -> str:
    """The indented lines below `title:`."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
    return found.group(1) if found else ""


def explains(text: str, argument: str) -> bool:
    """Whether a docstring has `argument` in backticks or below "Args:", alone or in a list."""
    in_list = rf"^ +(\w+, )*{argument}\b[^:]*:"
    return bool(re.search(rf"`{argument}\b", text) or re.search(in_list, section(text, "Args"), re.MULTILINE))


def faults(each: Public) -> Iterator[str]:
    if "override" in decorators(each.node) and not each.text:
        return
    if not each.text:
        yield "no docstring"
        return
    texts = [each.text, *(ast.get_docstring(above) or "" for above in each.inherited)]
    for name in arguments(each.node):
        if not any(explains(text, name) for text in texts):
            yield f"does not say what `{name}` is"
    for error in sorted(raised(each.node)):
        if not any(re.search(rf"\b{error}\b", text) for text in texts):
            yield f"does not say that it raises {error}"


def test_public_functions_say_what_they_take_and_raise():
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "tfopt").rglob("*.py")}
    known = definitions({name: path.read_text(encoding="utf-8") for name, path in files.items()})
    everything = list(public(known, NAMES))
    assert len(NAMES) > 80 and len(everything) > 150
    found = [f"{each.place} {each.name} {fault}" for each in everything for fault in faults(each)]
    assert not found, "\n".join(found)


def first_words(source: str) -> Iterator[tuple[int, str]]:
    """(line, first word) of the docstring of each function that is no property."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function) and not {"property", "cached_property", "setter"} & decorators(node):
            words = (ast.get_docstring(node) or "").split()
            if words:
                yield node.lineno, words[0].rstrip(",")


def test_docstrings_of_functions_begin_with_a_verb():
    found, count = [], 0
    for path in sorted((ROOT / "tfopt").rglob("*.py")):
        for line, word in first_words(path.read_text(encoding="utf-8")):
            count += 1
            if word not in VERBS:
                found.append(f"{path.relative_to(ROOT).as_posix()}:{line} begins with {word!r}")
    assert count > 1000
    assert not found, "add the words that are verbs to WORDS:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('def f(a):\n    """Return `a`."""', []),
        ('def f(a):\n    """Return it."""', ["does not say what `a` is"]),
        ('def f(a, *, b):\n    """Return it.\n\n    Args:\n        a, b: numbers.\n    """', []),
        ('def f(a, b):\n    """Return it.\n\n    Args:\n        a: not b.\n    """', ["does not say what `b` is"]),
        ('def f(a):\n    raise DataError("No.")', ["no docstring"]),
        ('def f():\n    """Return."""\n    if 1:\n        raise E_Error("")', ["does not say that it raises E_Error"]),
        ('def f():\n    """Return. Raise `DataError` if odd."""\n    raise DataError("No.")', []),
        ('class f(B):\n    def g(self, a):\n        "Do."\nclass B:\n    def g(self, a):\n        "Return `a`."', []),
        ('class f:\n    def g(self, a):\n        """Return it."""', ["does not say what `a` is"]),
        ('class f:\n    def _g(self, a):\n        """Return it."""', []),
    ],
)  # fmt: skip
def test_faults_are_found(text, expected):
    found = public(definitions({"a.py": text}), frozenset({"f"}))
    assert [fault for each in found for fault in faults(each)] == expected


def test_first_words_are_found():
    text = '@property\ndef f():\n    """The size."""\ndef g():\n    """The size."""\ndef h():\n    """Return it."""'
    assert list(first_words(text)) == [(4, "The"), (6, "Return")]
    assert "The" not in VERBS and "Return" in VERBS
