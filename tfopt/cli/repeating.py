"""`tfopt run --repeats`: one recipe with several seeds, a folder each, and their mean and spread in one table."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfopt.cli.command import say
from tfopt.cli.outcome import carried_out, require_success, say_written
from tfopt.errors import DataError, PromiseError

if TYPE_CHECKING:
    from tfopt.evaluate.report import Report
    from tfopt.run.guard import Verdict
    from tfopt.run.prepare import Prepared
    from tfopt.run.recipe import Recipe


def repeat(
    prepare: Callable[["Recipe", Path], "Prepared"],
    recipe: "Recipe",
    repeats: int,
    out: Path,
    *,
    overwrite: bool,
    min_accuracy: float | None,
) -> None:
    """Carry out `recipe` with `repeats` seeds, write all results to `out`, and print mean and spread.

    Until the last run has ended, the results are in a hidden folder inside `out`. After an interruption, the same
    command skips the seeds that have finished. A seed that breaks a promise does not stop the others.

    Args:
        prepare: prepares a run that writes to a folder.
        recipe: its seed is the first one.
        repeats: number of seeds.
        out: the folder for all results.
        overwrite: replace the contents of `out`.
        min_accuracy: that each file must reach; None for any.

    Raises:
        PromiseError: a seed failed; the results of the others are written.
    """
    from tfopt.base.files import WORK
    from tfopt.training.settings import SEEDS

    unfinished = out / WORK / "repeats"
    reports: dict[int, Report] = {}
    failures: list[str] = []
    seeds = [(recipe.training.seed + number) % SEEDS for number in range(repeats)]
    for number, seed in enumerate(seeds, 1):
        say(f"run {number} of {repeats}, seed {seed}")
        folder = unfinished / f"seed_{seed}"
        prepared = prepare(recipe.seeded(seed), folder)  # what it refuses, it refuses for any seed
        try:
            report, verdict = _run(prepared, folder)
            reports[seed] = report
            require_success(report, verdict, min_accuracy, out / folder.name)
        except PromiseError as error:
            failures.append(f"Seed {seed}: {error}".replace(str(unfinished), str(out)))
            say(failures[-1])
    _write(unfinished, out, seeds, reports, recipe.name, overwrite=overwrite)
    if failures:
        raise PromiseError(f"{len(failures)} of {repeats} seeds failed. {' '.join(failures)}")
    say_written(out)


def _run(prepared: "Prepared", folder: Path) -> tuple["Report", "Verdict"]:
    """Carry out a run into `folder`, unless an interrupted command has done so."""
    from tfopt.base.files import write_atomically

    mark, key = folder.with_suffix(".finished.json"), prepared.checkpoint.key if prepared.checkpoint else ""
    if (found := _finished(mark, folder, key)) is not None:
        say(f"the results are already in {folder}")
        return found
    folder.with_suffix(".failed.tflite").unlink(missing_ok=True)  # of an interrupted command
    result = carried_out(prepared, folder)
    result.save(folder, overwrite=True)
    write_atomically(mark, json.dumps({"key": key, "verdict": dataclasses.asdict(result.verdict)}))
    return result.report, result.verdict


def _finished(mark: Path, folder: Path, key: str) -> tuple["Report", "Verdict"] | None:
    """Return the report and the verdict of the run in `folder`, or None unless a run with this `key` finished there."""
    from tfopt.evaluate.report import Report
    from tfopt.run.guard import Verdict

    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found["key"] != key:
            return None
        report = Report.from_json((folder / "report.json").read_text(encoding="utf-8"))
        return report, Verdict(**found["verdict"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None  # damaged, or from another version: run it again


def _write(
    unfinished: Path, out: Path, seeds: list[int], reports: dict[int, "Report"], name: str, *, overwrite: bool
) -> None:
    """Move all results to `out`, with mean and spread, and print the table."""
    from tfopt.base.files import output_folder, write_atomically
    from tfopt.base.terminal import rendered
    from tfopt.run.repeats import spread, table

    steps = spread(list(reports.values())) if reports else []
    if steps:
        which = f"seed {', '.join(map(str, reports))}"
        click.echo(rendered(table(steps, f"{name}: mean and standard deviation of {which}"), width=100))
    failed = (unfinished / f"seed_{seed}.failed.tflite" for seed in seeds)
    kept = [*(unfinished / f"seed_{seed}" for seed in reports), *(file for file in failed if file.exists())]
    with output_folder(out, overwrite=overwrite) as new:
        for place in kept:
            copy = shutil.copytree if place.is_dir() else shutil.copy2
            copy(place, new / place.name)
        write_atomically(new / "repeats.json", json.dumps({"seeds": list(reports), "steps": steps}, indent=2) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)
