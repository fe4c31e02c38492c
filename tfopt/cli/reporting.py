"""`tfopt report`: the page of a result, and one that compares several."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from tfopt.cli.command import say
from tfopt.errors import DataError

if TYPE_CHECKING:
    from tfopt.evaluate.report import Report


@click.command()
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The page to write (default: report.html in the folder of one result, comparison.html here for several).",
)
def report(results: tuple[Path, ...], out: Path | None) -> None:
    """Write a page that compares RESULTS.

    Each is a folder that tfopt run has written. The page has their accuracy against bytes, a table with differences
    from the first one, and their recipes side by side; it is one file and needs no network.

    \b
        tfopt report saved_models/first saved_models/second
        tfopt report saved_models/first           # writes report.html in that folder again
    """
    from tfopt.base.files import write_atomically
    from tfopt.evaluate.page.comparison import Candidate, comparison_page
    from tfopt.evaluate.page.single import report_page

    found = [_report_in(folder) for folder in results]
    if len(results) == 1:
        out = out or results[0] / "report.html"
        write_atomically(out, report_page(found[0]))
    else:
        out = out or Path("comparison.html")
        _require_same_metrics(results, found)
        candidates = [
            Candidate(name, each, _address(folder, out), _fingerprint(folder))
            for name, each, folder in zip(_names(results), found, results, strict=True)
        ]
        write_atomically(out, comparison_page(candidates))
    say(f"wrote {out}")


def _report_in(folder: Path) -> "Report":
    from tfopt.evaluate.report import Report

    file = folder / "report.json"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Expected a folder that tfopt run has written, with a report.json; got {folder}: {_why(file, error)}."
        ) from error
    try:
        found = Report.from_json(text)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    if not found.rows:
        raise DataError(f"Expected a report with rows, got {file} without any.")
    return found


def _why(file: Path, error: Exception) -> str:
    if not file.parent.exists():
        return "it does not exist"
    if not file.exists():
        return f"it has no {file.name}" if file.parent.is_dir() else "it is a file"
    return (error.strerror if isinstance(error, OSError) else None) or f"{file.name} is not a text"


def _require_same_metrics(folders: Sequence[Path], reports: Sequence["Report"]) -> None:
    metrics = list(reports[0].rows[-1].metrics)
    for folder, report in zip(folders, reports, strict=True):
        if (others := list(report.rows[-1].metrics)) != metrics:
            raise DataError(
                f"Expected results of one task to compare, got {', '.join(metrics)} in {folders[0]} and "
                f"{', '.join(others)} in {folder}. Compare them in separate pages."
            )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders; their paths where several have the same name."""
    names = [folder.resolve().name for folder in folders]
    counts = Counter(names)
    return [name if counts[name] == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _fingerprint(folder: Path) -> str:
    """Return what identifies the data of a result; "" if its data.json does not tell."""
    try:
        return str(json.loads((folder / "data.json").read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _address(folder: Path, page: Path) -> str:
    """Return the address of the page of a result, relative to `page`; "" if it has none."""
    own = folder / "report.html"
    if not own.is_file():
        return ""
    return quote(Path(os.path.relpath(own.resolve(), page.resolve().parent)).as_posix())
