"""Packages with stages and layers of their own on the command line: --import, and the folder of a recipe.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.cli.running import load_recipe

STAGE = """
from tfopt.extend import Stage, config, register

@register("{package}")
@config
class Halve(Stage):
    def _wrap(self, flat_model, steps, keep): return flat_model
"""
LAYER = """
import keras

@keras.saving.register_keras_serializable("{package}")
class Twice(keras.layers.Layer):
    def call(self, inputs): return 2 * inputs
"""


def tfopt_command(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def own_path(tmp_path, monkeypatch):
    """Run each test in a folder that is not on the search path."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)


def test_a_recipe_that_names_a_package(tmp_path):
    (tmp_path / "halving.py").write_text(STAGE.format(package="halving"))
    (tmp_path / "r.json").write_text('{"stages": [{"stage": "halving>Halve"}]}')
    run = ("run", "r.json", "--model", "absent.keras", "--data", "digits")
    without = tfopt_command(*run)
    assert without.exit_code == 2 and "tfopt --import halving COMMAND" in without.stderr
    found = tfopt_command("--import", "halving", *run)
    assert found.exit_code == 2 and "absent.keras: no such file" in found.stderr  # so the recipe was read
    recipe, _ = load_recipe(tmp_path / "r.json")
    assert type(recipe.stages[0]).__name__ == "Halve"


def test_a_layer_of_a_package_and_a_second_import(tmp_path):
    """In a process that knows neither, started as the installed command: without the current folder on its path."""
    (tmp_path / "twicing.py").write_text(LAYER.format(package="twicing"))
    (tmp_path / "said.py").write_text("print('imported')\n")
    make = (
        "import sys; sys.path.insert(0, '.'); import keras, twicing\n"
        "keras.Sequential([keras.Input((4,)), twicing.Twice(name='doubled')]).save('m.keras')\n"
    )
    subprocess.run([sys.executable, "-c", make], check=True, capture_output=True)
    program = "import sys; sys.path.remove(''); from tfopt.cli import main; main()"
    inspect = [sys.executable, "-c", program, "--import", "twicing", "--import", "said", "inspect", "m.keras"]
    environment = {**os.environ, "PYTHONPATH": str(Path(tfopt.__file__).parents[1])}
    done = subprocess.run(inspect, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "doubled" in done.stdout and "Twice" in done.stdout and done.stdout.startswith("imported\n")
    assert done.stderr == ""


def test_a_model_of_an_unknown_package_names_the_option(tmp_path):
    import keras

    class Nowhere(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    keras.Sequential([keras.Input((4,)), Nowhere()]).save(tmp_path / "m.keras")
    done = tfopt_command("inspect", "m.keras")
    assert done.exit_code == 2 and "tfopt --import PACKAGE COMMAND" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("broken_on_import", "ZeroDivisionError: division by zero"),
        ("leaving_on_import", "SystemExit: 7"),
        (".relative", "TypeError"),
    ],
)
def test_what_cannot_be_imported_is_one_line(name, words, tmp_path):
    (tmp_path / "broken_on_import.py").write_text("1 / 0\n")
    (tmp_path / "leaving_on_import.py").write_text("raise SystemExit(7)\n")
    done = tfopt_command("--import", name, "run", "absent.json")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: --import cannot import '{name}' from the current folder or the installed packages: "
    )
    assert words in line


def test_a_recipe_script_imports_what_is_beside_it(tmp_path):
    """As `python recipe.py` does, from another folder too."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside_the_recipe.py").write_text("SPARSITY = 0.625\n")
    (folder / "recipe.py").write_text(
        "import tfopt\nfrom beside_the_recipe import SPARSITY\n"
        "recipe = tfopt.Recipe(stages=(tfopt.Prune(final_sparsity=SPARSITY),))\n"
    )
    recipe, _ = load_recipe(folder / "recipe.py")
    assert recipe.stages[0].final_sparsity == 0.625
