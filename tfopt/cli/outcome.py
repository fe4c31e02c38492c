"""How a run ends on the command line: its file kept if it breaks a promise, its exit code, its last line."""

from pathlib import Path
from typing import TYPE_CHECKING

from tfopt.cli.command import say
from tfopt.errors import PromiseError

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
    from tfopt.run.optimize import carry_out
    from tfopt.tflite.write.proof import kept_beside

    try:
        return carry_out(prepared)
    except PromiseError as error:
        raise kept_beside(error, out.with_name(f"{out.name}.tflite")) from error


def require_success(report: "Report", verdict: "Verdict", min_accuracy: float | None, out: Path) -> None:
    """Raise PromiseError if a run, whose results are in `out`, failed its guard or is below `min_accuracy`."""
    if not verdict.ok:
        raise PromiseError(f"{verdict.text.rstrip('.')}. All results are in {out}.")
    if min_accuracy is not None and (found := report.rows[-1].metrics["accuracy"]) < min_accuracy:
        raise PromiseError(
            f"The file's accuracy is {found:.4f}, below --min-accuracy {min_accuracy:g}. The results are in {out}."
        )


def say_written(out: Path) -> None:
    """Print the names of the results in `out` to stderr."""
    say(f"wrote {out}/: {', '.join(sorted(file.name for file in out.iterdir()))}")
    if (page := out / "report.html").exists():
        say(f"open {page} in a browser to see the report")
