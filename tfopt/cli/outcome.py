"""How a run ends on the command line: its file kept if it breaks a promise, its exit code, its last line."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tfopt.base.words import in_decimals, metric_in_words
from tfopt.cli.command import say
from tfopt.errors import OutputError, PromiseError, TfoptError

if TYPE_CHECKING:
    from tfopt.evaluate.report import Report
    from tfopt.run.guard import Verdict
    from tfopt.run.prepare import Prepared
    from tfopt.run.result import Result


def carried_out(prepared: "Prepared", out: Path) -> "Result":
    """Return the result of a prepared run.

    Raises:
        PromiseError: the training or the file breaks a promise; the file, if there is one, is kept next to `out`.
    """
    from tfopt.base.files import beside
    from tfopt.run.optimize import carry_out
    from tfopt.tflite.write.proof import kept_beside

    try:
        return carry_out(prepared)
    except PromiseError as error:
        raise kept_beside(error, beside(out, ".tflite")) from error


def save(result: "Result", out: Path, *, overwrite: bool) -> None:
    """Write a result to the folder `out`; if that cannot be written, next to it or to a new temporary folder.

    Raises:
        OutputError: `out` cannot be written; the message says where the result is instead.
    """
    from tfopt.base.files import free_beside, is_full, prepare_folder

    try:
        prepare_folder(out, overwrite)
    except OutputError as error:  # somebody has filled or removed it since the run began
        _save_elsewhere(result, free_beside(out), str(error), error)
    try:
        result.save(out, overwrite=overwrite)
    except (OSError, TfoptError) as error:
        if isinstance(error, OutputError) and not is_full(error):  # it names where the result is
            raise
        why = f"{out} cannot be written ({str(error).rstrip('.')})."
        _save_elsewhere(result, Path(tempfile.mkdtemp(prefix="tfopt-")), why, error)


def _save_elsewhere(result: "Result", place: Path, why: str, error: Exception) -> NoReturn:
    try:
        result.save(place)
    except OutputError:
        place = Path(tempfile.mkdtemp(prefix="tfopt-"))
        result.save(place)
    raise OutputError(f"{why} The results are in {place}.") from error


def require_success(report: "Report", verdict: "Verdict", min_accuracy: float | None, out: Path) -> None:
    """Raise PromiseError if a run, whose results are in `out`, failed its guard or is below `min_accuracy`."""
    if not verdict.ok:
        raise PromiseError(f"{verdict.text.rstrip('.')}. All results are in {out}.")
    if min_accuracy is not None and (found := report.rows[-1].metrics["accuracy"] or 0.0) < min_accuracy:
        raise PromiseError(
            f"The file's accuracy is {found:.4f}, below --min-accuracy {min_accuracy:g}. The results are in {out}."
        )


def say_passed(report: "Report", verdict: "Verdict") -> None:
    """Print that a run passed, with the metric of its file and of its first model, unless its verdict says more."""
    if not verdict.ok or verdict.text:
        return
    metrics = report.rows[-1].metrics
    name = next(iter(metrics), None)
    if name is None:
        return
    original = report.rows[0]
    first = f", {original.step} {in_decimals(original.metrics[name])}" if name in original.metrics else ""
    say(f"passed: {metric_in_words(name)} {in_decimals(metrics[name])} on the test samples{first}")


def written(out: Path) -> dict[str, Any]:
    """Return the folder of the results and the names of its files."""
    from tfopt.base.files import WORK

    return {"folder": str(out), "files": sorted(file.name for file in out.iterdir() if file.name != WORK)}


def say_written(out: Path) -> None:
    """Print the names of the results in `out`."""
    say(f"wrote {out}/: {', '.join(written(out)['files'])}")
    if (page := out / "report.html").exists():
        say(f"open {page} in a browser to see the report")
