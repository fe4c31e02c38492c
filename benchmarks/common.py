"""Shared by the benchmarks: versions, and tables printed and saved in benchmarks/results/."""

import importlib.metadata
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tensorflow", "tf-keras", "keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy")


def versions() -> str:
    """Return the versions of Python and the packages the numbers depend on."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {packages}"


def publish(name: str, title: str, header: list[str], rows: list[list[str]], facts: list[str]) -> None:
    """Print a table and write it to `benchmarks/results/NAME.md`, with the command, seeds and versions."""
    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console = Console(width=140)
    console.print(table)
    facts = [*facts, versions()]
    for fact in facts:
        console.print(fact, highlight=False)
    lines = [f"# {title}", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"- {fact}" for fact in facts), ""]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
