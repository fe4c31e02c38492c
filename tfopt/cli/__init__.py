"""The command line: run, export, check, measure and pack; `COMMANDS` lists all commands.

Exit codes: 0 success; 1 a promise does not hold in the file, or `check` finds that the recipe cannot run; 2 bad input
or usage; 3 a bug in tfopt; 130 or 143 interrupted, by Ctrl-C or SIGTERM. Only commands that need TensorFlow import it.
"""

import click

from tfopt.cli.command import SETTINGS, Group, debug_option, hush_tensorflow, import_packages, show_deprecations
from tfopt.cli.examining import bench, check, compare, inspect, rank, verify
from tfopt.cli.exporting import export
from tfopt.cli.measuring import sensitivity
from tfopt.cli.packing import pack, unpack
from tfopt.cli.reporting import report
from tfopt.cli.running import run, run_recipe
from tfopt.cli.shipped import recipes

__all__ = ["main", "run_recipe"]

COMMANDS = (run, report, recipes, export, check, inspect, compare, verify, bench, sensitivity, rank, pack, unpack)


@click.group(cls=Group, context_settings=SETTINGS)
@debug_option
@click.option(
    "--import",
    "packages",
    metavar="PACKAGE",
    multiple=True,
    help="Import a package first, from the current folder or installed, for the stages, losses and layers that it "
    "registers. Can be repeated.",
)
@click.version_option(package_name="tfopt")
def main(debug: bool, packages: tuple[str, ...]) -> None:
    """Make a small, verified .tflite of a Keras model: compress a trained one, or train one by a recipe."""
    del debug  # read by `OneLineErrors`
    hush_tensorflow()
    show_deprecations()
    import_packages(packages)


for command in COMMANDS:
    main.add_command(command)
