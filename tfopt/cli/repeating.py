"""`tfopt run --repeats`: one recipe with several seeds, a folder each, and their mean and spread in one table."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        DataError: `out` holds unfinished runs with other settings.
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
        if number == 1 and not overwrite:
            _require_same_runs(prepared, [unfinished / f"seed_{each}" for each in seeds], seeds)
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


def _require_same_runs(prepared: "Prepared", folders: list[Path], seeds: list[int]) -> None:
    """Raise `DataError` before any training if an interrupted command with other settings left something."""
    from tfopt.base.files import WORK
    from tfopt.run.run_folder import of_another_run, require_same_run

    assert prepared.checkpoint is not None
    for folder, seed in zip(folders, seeds, strict=True):
        about = prepared.checkpoint.about_recipe(prepared.recipe.seeded(seed))
        require_same_run(folder / WORK / "checkpoint", about)
        finished = _read(_mark(folder))
        if finished and finished["about"] != about:
            raise of_another_run(folder, finished["about"], about)


def _mark(folder: Path) -> Path:
    """Return the file that says that the run in `folder` is finished, and what it was about."""
    return folder.with_suffix(".finished.json")


def _run(prepared: "Prepared", folder: Path) -> tuple["Report", "Verdict"]:
    """Carry out a run into `folder`, unless an interrupted command has done so."""
    from tfopt.base.files import clean, write_atomically
    from tfopt.base.interruption import finishing

    assert prepared.checkpoint is not None
    if (found := _finished(folder, prepared.checkpoint.about)) is not None:
        say(f"the results are already in {folder}")
        return found
    folder.with_suffix(".failed.tflite").unlink(missing_ok=True)  # of an interrupted command
    clean(folder)
    with finishing(last=False):
        result = carried_out(prepared, folder)
        result.save(folder, overwrite=True)
        about = {"about": prepared.checkpoint.about, "verdict": dataclasses.asdict(result.verdict)}
        write_atomically(_mark(folder), json.dumps(about))
    return result.report, result.verdict


def _finished(folder: Path, about: dict[str, Any]) -> tuple["Report", "Verdict"] | None:
    """Return the report and the verdict of the run in `folder`, or None unless one about `about` finished there."""
    from tfopt.evaluate.report import Report
    from tfopt.run.guard import Verdict

    found = _read(_mark(folder))
    if not found or found["about"] != about:
        return None
    try:
        report = Report.from_json((folder / "report.json").read_text(encoding="utf-8"))
        return report, Verdict(**found["verdict"])
    except (OSError, ValueError, TypeError, DataError):
        return None  # damaged, or from another version: run it again


def _read(mark: Path) -> dict[str, Any] | None:
    """Return what is in a file that `_run` wrote; None if it cannot be read."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
        return {"about": found["about"], "verdict": found["verdict"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give the file `source` a second name: it takes no space, and until all is written, none is lost."""
    try:
        os.link(source, target)
    except OSError:  # the file system has no links
        shutil.copy2(source, target)


def _write(
    unfinished: Path, out: Path, seeds: list[int], reports: dict[int, "Report"], name: str, *, overwrite: bool
) -> None:
    """Move all results to `out`, with mean and spread, and print the table."""
    from tfopt.base.files import WORK, output_folder, write_atomically
    from tfopt.base.finite_json import json_text
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
            if place.is_dir():
                shutil.copytree(
                    place, new / place.name, ignore=shutil.ignore_patterns(WORK), copy_function=_link_or_copy
                )
            else:
                _link_or_copy(place, new / place.name)
        write_atomically(new / "repeats.json", json_text({"seeds": list(reports), "steps": steps}))
    shutil.rmtree(unfinished, ignore_errors=True)
