"""Every public name has an example in its docstring that runs, and a place in the reference.

The examples begin where the Python block of docs/api/index.md ends.
"""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import tfopt

API = Path(__file__).parent.parent / "docs" / "api"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NAMESPACES = ("extend", "inputs", "losses", "self_taught", "training", "transfer")
TABLES = {"losses.LOSSES", "transfer.TRANSFERS"}  # in the registry, for tfopt's own files
# Public in two namespaces, and described in `extend`.
TWICE = {"losses.FeatureLoss", "losses.Loss", "losses.LossInputs", "transfer.Transfer", "transfer.Transferred"}
# What trains or converts for more than about two seconds.
SLOW = {
    "OutputError", "PostTraining", "Quantize", "Result", "Teacher", "distill", "optimize", "losses.FitNets",
    "self_taught.born_again", "training.LearningRates", "transfer.FeatureTransfer",
}  # fmt: skip


def public_names():
    inside = (f"{place}.{name}" for place in NAMESPACES for name in getattr(tfopt, place).__all__)
    return sorted({*tfopt.__all__, *inside} - TABLES - TWICE)


def example_of(name):
    """The lines below "Examples:" in the docstring of a public name, as a doctest."""
    place, _, last = name.rpartition(".")
    documented = getattr(importlib.import_module(f"tfopt.{place}" if place else "tfopt"), last)
    _, _, section = (inspect.getdoc(documented) or "").partition("\nExamples:\n")
    return doctest.DocTestParser().get_doctest(section, {}, name, None, None)


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """What the examples assume, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    page = (API / "index.md").read_text(encoding="utf-8")
    (setup,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names = {"__name__": "example"}
    exec(compile(setup, "docs/api/index.md", "exec"), names)
    return names


@pytest.mark.parametrize("name", map(marked, public_names()))
def test_the_example_of_a_name_runs(name, namespace):
    example = example_of(name)
    example.globs = namespace
    outcome = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example)
    assert outcome.attempted and not outcome.failed


def test_every_name_has_an_example_that_uses_it():
    used = {name: "".join(step.source for step in example_of(name).examples) for name in public_names()}
    assert len(used) > 100
    assert [name for name, source in used.items() if not re.search(rf"\btfopt\.{name}\b", source)] == []
    assert used.keys() > SLOW


def test_the_reference_describes_every_name_once():
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted(API.glob("*.md")))
    assert sorted(re.findall(r"^::: tfopt\.(\S+)$", pages, re.MULTILINE)) == public_names()
