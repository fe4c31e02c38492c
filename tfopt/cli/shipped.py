"""The recipes that come with tfopt: files to run by name, and to copy."""

import ast
import difflib
import site
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from tfopt.base.files import write_atomically
from tfopt.cli.command import OneLineErrors, print_table, say
from tfopt.errors import OutputError, RecipeError

_FOLDER = Path("share", "tfopt", "recipes")  # pyproject.toml installs them there


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes by name: of the repository that tfopt runs from, or those that its wheel has installed."""
    root = Path(__file__).parents[2]
    installed = (root, Path(sysconfig.get_path("data")), Path(site.getuserbase()))  # pip --target, pip, pip --user
    for folder in (root / "recipes", *(place / _FOLDER for place in installed)):
        if (folder / "deep_compression.py").is_file():
            return {file.stem: file for file in sorted(folder.glob("*.py"))}
    return {}


def recipe_file(given: Path) -> Path:
    """Return the file of a recipe: a .py or .json, or one that comes with tfopt, by its name.

    Raises:
        RecipeError: there is none; the message names the nearest ones.
    """
    if given.suffix in (".py", ".json") and given.is_file():
        return given
    known = shipped_recipes()
    if given.parent == Path() and given.name in known and not given.is_file():
        return known[given.name]
    if given.suffix == ".json":
        return given  # it says itself what is wrong
    missing = "" if given.exists() else ", which does not exist"
    raise RecipeError(
        f"Expected a recipe .py or .json, or the name of one that comes with tfopt, got {given}{missing}."
        f"{_nearest(given.stem, known)} `tfopt recipes` lists them."
    )


class RecipeName(click.Path):
    """The argument of commands that take a recipe: a file, or the name of one that comes with tfopt."""

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin like `incomplete`, and let the shell add files."""
        names = [CompletionItem(name) for name in shipped_recipes() if name.startswith(incomplete)]
        return [*names, *super().shell_complete(ctx, param, incomplete)]


class ShippedName(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The name of a recipe that comes with tfopt; its value is the file."""

    name = "name"

    @override
    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the file of the recipe called `value`."""
        return shipped_recipe(value)

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin like `incomplete`."""
        return [CompletionItem(name) for name in shipped_recipes() if name.startswith(incomplete)]


def shipped_recipe(name: str) -> Path:
    """Return the file of the recipe called `name`.

    Raises:
        RecipeError: there is none; the message names the nearest ones.
    """
    known = shipped_recipes()
    if (stem := name.removesuffix(".py")) in known:
        return known[stem]
    raise RecipeError(
        f"Expected the name of a recipe that comes with tfopt, got {name}.{_nearest(name, known)} `tfopt recipes` "
        "lists them."
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(ctx: click.Context) -> None:
    """List, show and copy the recipes that come with tfopt.

    \b
        tfopt recipes                             # what each does
        tfopt recipes show deep_compression
        tfopt recipes copy deep_compression       # to change it: writes deep_compression.py here
        tfopt run deep_compression --model model.keras --data photos/
    """
    if ctx.invoked_subcommand is None:
        _list()


def _list() -> None:
    from rich.table import Table

    known = shipped_recipes()
    if not known:
        raise RecipeError("No recipes are installed; install tfopt from its wheel, or run it from its repository.")
    table = Table(title="recipes", title_justify="left")
    table.add_column("name")
    table.add_column("what it does")
    for name, file in known.items():
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        table.add_row(name, " ".join(text.partition("\n\n")[0].split()))
    print_table(table)
    folder = next(iter(known.values())).parent
    say(f"tfopt run NAME runs one; tfopt recipes copy NAME writes one to change. They are in {folder}")


@recipes.command(cls=OneLineErrors)
@click.argument("file", metavar="NAME", type=ShippedName())
def show(file: Path) -> None:
    """Print the recipe NAME."""
    click.echo(file.read_text(encoding="utf-8"), nl=False)


@recipes.command(cls=OneLineErrors)
@click.argument("file", metavar="NAME", type=ShippedName())
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write (default: NAME.py in this folder).",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def copy(file: Path, out: Path | None, overwrite: bool) -> None:
    """Copy the recipe NAME, to change it and run it with tfopt run.

    \b
        tfopt recipes copy deep_compression --out mine.py
        tfopt run mine.py --model model.keras --data photos/
    """
    out = out or Path(file.name)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists. Pass --overwrite to replace it, or another file with --out.")
    write_atomically(out, file.read_bytes())
    say(f"wrote {out}; tfopt run {out} runs it")
