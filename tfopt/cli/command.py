"""What all commands share: one-line errors, exit codes and common options."""

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from tfopt.base import terminal
from tfopt.base.files import is_full
from tfopt.base.interruption import Interrupted, ending_on_signals
from tfopt.base.stderr import native_noise_held
from tfopt.base.terminal import plain
from tfopt.errors import PromiseError, RecipeError, TfoptError

DATA_SOURCES = "A folder of samples, a table, a .npz, a .tfrecord, tfds:NAME or 'digits'"
PREPROCESSING = ("raw", "unit", "symmetric", "caffe", "torch")
# Old option -> its new names; each command has at most one of them.
RENAMED = {
    "--preprocess": ("--preprocessing",),
    "--ranges": ("--activation-ranges", "--weight-steps"),
    "--teacher-preprocess": ("--teacher-preprocessing",),
}
UNEXPECTED = 3  # exit code
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
debug_option = click.option("--debug", is_flag=True, help="Show the full traceback of an error.")


class OneLineErrors(click.Command):
    """A command that takes old option names too and prints errors as one line, with --debug below a traceback."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _under_new_names(args, self))

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ending_on_signals():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit):
            raise  # rich raises SystemExit when the reader closes the pipe, as in `tfopt inspect FILE | head`
        except BaseException as error:
            if ctx.params.get("debug") and not isinstance(error, KeyboardInterrupt):
                click.echo(plain(traceback.format_exc().rstrip(), lines=True), err=True)
            _fail(*ending(error))


class Group(OneLineErrors, click.Group):
    """`tfopt` itself; its commands accept options under their old names for one release."""

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, _under_new_names(rest, command) if command else rest


def _under_new_names(args: list[str], command: click.Command) -> list[str]:
    """Return the arguments of `command` with old options replaced by new ones, and print a note on each."""
    known = {option for param in command.params for option in param.opts}
    return [_under_new_name(arg, known) for arg in args]


def _under_new_name(arg: str, known: set[str]) -> str:
    """Return the option `arg` under its new name if that is one of the `known` options."""
    old, mark, value = arg.partition("=")
    new = next((new for new in RENAMED.get(old, ()) if new in known), None)
    if new is None or old in known:
        return arg
    say(f"{old} is now {new}; the old name will be removed in 0.3.0", err=True)
    return f"{new}{mark}{value}"


def ending(error: BaseException) -> tuple[str, int]:
    """Return the message and the exit code with which a command ends that raises `error`."""
    if isinstance(error, Interrupted):
        where = f" ({error})" if str(error) else ""
        more = ". Run the command again to go on" if error.kept else ""
        if error.finishing:
            return "interrupted while the result was moved to its folder, where it may be complete" + more, error.code
        return f"interrupted{where}; no result was written{more}", error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no result was written", 130
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    return explained(error)


def explained(error: BaseException) -> tuple[str, int]:
    """Return the message for `error` and the exit code that goes with it."""
    if is_full(error):
        return (
            f"No space is left for temporary files in {tempfile.gettempdir()}, or for the output. Free some, or set "
            "TMPDIR to a folder on another disk. A run goes on from its last checkpoint.",
            2,
        )
    if isinstance(error, PromiseError):
        return str(error), 1
    if isinstance(error, TfoptError):
        return str(error), 2
    return (
        f"{type(error).__name__}: {error}. This should not happen; put --debug before the command to see where.",
        UNEXPECTED,
    )


def _fail(message: str, code: int) -> None:
    say(f"error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def foreign_code(failure: str) -> Iterator[None]:
    """Turn what the user's code raises within this block into a RecipeError that begins with `failure`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if explained(error)[1] != UNEXPECTED:
            raise
        raise RecipeError(f"{failure}: {type(error).__name__}: {error}.") from error


def import_packages(names: Iterable[str]) -> None:
    """Import packages, from the current folder too, so that what they register is known.

    Raises:
        RecipeError: one cannot be imported.
    """
    for name in names:
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        with (
            foreign_code(f"--import cannot import '{name}' from the current folder or the installed packages"),
            native_noise_held(),
        ):
            importlib.import_module(name)


def hush_tensorflow() -> None:
    """Silence the start-up messages of TensorFlow's native part, unless the user has set a level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def show_deprecations() -> None:
    """Show the deprecation warnings of tfopt, as for old names in a recipe.json; Python hides them by default."""
    if not sys.warnoptions:
        warnings.filterwarnings("default", category=DeprecationWarning, message=r".*0\.3\.0")


allow_unsafe_option = click.option(
    "--allow-unsafe", is_flag=True, help="Let the model file run the Python code in it. Only for files you trust."
)

allow_drift_option = click.option(
    "--allow-drift", is_flag=True, help="Write the file even if its outputs differ from the model; note the difference."
)


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command with data takes."""
    options = [
        click.option("--preprocessing", type=click.Choice(PREPROCESSING),
                     help="Range of the pixels: raw 0..255, unit 0..1, symmetric -1..1 (default: what a data.json "
                          "beside the model says, or a transfer recognizes, else raw)."),
        click.option("--limit", type=click.IntRange(min=1),
                     help="Maximum number of samples in each part, for a quick try."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def say(text: object, *, err: bool = False) -> None:
    """Print one line with control characters escaped, since names in it come from files."""
    click.echo(plain(text), err=err)


def print_table(table: Any) -> None:
    """Print a `rich.table.Table` with its title on a separate line, because a narrow table would wrap it."""
    console = terminal.console(width=None if sys.stdout.isatty() else 140, soft_wrap=True)
    console.print(table.title)
    table.title = None
    console.print(table, soft_wrap=False)
