"""The recipes that come with tfopt: files to run by name, and to copy."""

import ast
import difflib
import site
import sysconfig
from pathlib import Path

import click

from tfopt.cli.command import print_table, say
from tfopt.errors import RecipeError

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
    near = difflib.get_close_matches(given.stem, known, cutoff=0.5)
    advice = f" Did you mean {' or '.join(near)}?" if near else ""
    raise RecipeError(
        f"Expected a recipe .py or .json, or the name of one that comes with tfopt, got {given}"
        f"{'' if given.exists() else ', which does not exist'}.{advice} `tfopt recipes` lists them."
    )


@click.command()
def recipes() -> None:
    """List the recipes that come with tfopt.

    \b
        tfopt run deep_compression --model model.keras --data photos/
    """
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
    say(f"tfopt run NAME runs one; to change one, copy its file from {next(iter(known.values())).parent}")
