"""Recipes by name, from any folder."""

from pathlib import Path

import keras
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.cli.running import load_recipe
from tfopt.cli.shipped import recipe_file, shipped_recipes
from tfopt.errors import RecipeError

ROOT = Path(__file__).parents[2]


def test_all_recipes_are_listed_with_what_they_do():
    done = CliRunner().invoke(cli.main, ["recipes"])
    assert done.exit_code == 0
    for file in (ROOT / "recipes").glob("*.py"):
        assert f" {file.stem} " in done.stdout
    assert "Prune half the weights during training" in done.stdout and str(ROOT / "recipes") in done.stdout


def test_a_name_is_the_recipe_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file(Path("prune")) == ROOT / "recipes" / "prune.py"
    recipe, _ = load_recipe(Path("prune"))
    assert recipe.name == "prune"


def test_own_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prune.py").write_text("import tfopt\nrecipe = tfopt.Recipe(name='own', stages=(tfopt.Prune(epochs=1),))\n")
    assert load_recipe(Path("prune.py"))[0].name == "own"
    Path("prune").mkdir()  # of an earlier --out prune
    assert recipe_file(Path("prune")) == shipped_recipes()["prune"]


@pytest.mark.parametrize(
    ("given", "near"), [("deep_compresion", "deep_compression"), ("recipes/prun.py", "prune"), ("distil", "distill")]
)
def test_a_wrong_name_lists_the_nearest(given, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["run", given])
    assert done.exit_code == 2
    assert f"got {given}, which does not exist. Did you mean {near}" in done.stderr and "`tfopt recipes`" in done.stderr


def test_nothing_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"which does not exist\. `tfopt recipes` lists them"):
        recipe_file(Path("zzz.py"))
    assert len(shipped_recipes()) > 10


def test_settings_of_a_recipe_on_the_command_line(tmp_path, monkeypatch):
    from tfopt.cli.running import _as_set

    recipe = tfopt.Recipe(stages=(tfopt.Prune(epochs=1),))
    changed = _as_set(recipe, ("stages.Prune.epochs=4",), "uint8", 16)
    assert (changed.stages[0].epochs, changed.export.io, changed.training.batch_size) == (4, "uint8", 16)
    assert _as_set(recipe, (), None, None) is recipe
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["run", "prune", "--set", "stages.0.final_sparsty=0.7"])
    assert done.exit_code == 2 and "is final_sparsity" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_speedup_sets_the_share_of_the_multiplications(tmp_path, monkeypatch):
    asked = []

    def look(model, recipe, data, **_):
        asked.append(recipe)
        raise RecipeError("Enough.")

    monkeypatch.setattr("tfopt.run.prepare.prepare", look)
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(
        tmp_path / "m.keras"
    )
    given = ["run", "faster", "--model", str(tmp_path / "m.keras"), "--speedup", "1.6", "--out", str(tmp_path / "out")]
    assert "Enough." in CliRunner().invoke(cli.main, given).output
    assert asked[0].stages[0].final_ratio == 1 / 1.6 and asked[0].stages[0].measure == "macs"
    done = CliRunner().invoke(cli.main, ["run", "prune", "--speedup", "2", "--out", str(tmp_path / "other")])
    assert done.exit_code == 2 and "--speedup needs a recipe with one PruneChannels; 'prune' has 0" in done.output
    both = ["run", "faster", "--speedup", "2", "--set", "stages.0.final_ratio=0.3", "--out", str(tmp_path / "both")]
    done = CliRunner().invoke(cli.main, both)
    assert done.exit_code == 2 and "--speedup sets final_ratio, and --set does so too" in done.output


def test_check_shows_what_a_speedup_saves(tmp_path):
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(16)])
    model.save(tmp_path / "m.keras")
    given = ["check", str(tmp_path / "m.keras"), "--no-convert", "--speedup", "2"]
    done = CliRunner().invoke(cli.main, [*given, "--recipe", "faster"])
    assert done.exit_code == 0, done.output
    before = 36 * 9 * 4 * 16 + 36 * 16 * 16
    assert f"note: PruneChannels, by the weights as they are: MACs {before:,} -> {before // 2:,} (2.00x" in done.output
    done = CliRunner().invoke(cli.main, given)
    assert done.exit_code == 2 and "Give --recipe faster or prune_channels." in done.output


def test_a_recipe_is_shown_as_its_file():
    done = CliRunner().invoke(cli.main, ["recipes", "show", "prune"])
    assert CliRunner().invoke(cli.main, ["recipes", "show", "prune.py"]).output == done.output
    assert done.exit_code == 0
    assert done.stdout == (ROOT / "recipes" / "prune.py").read_text(encoding="utf-8")


def test_a_recipe_is_copied_to_be_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["recipes", "copy", "prune"])
    assert done.exit_code == 0 and "wrote prune.py" in done.stdout
    assert load_recipe(Path("prune.py"))[0] == load_recipe(ROOT / "recipes" / "prune.py")[0]
    Path("prune.py").write_text("mine")
    done = CliRunner().invoke(cli.main, ["recipes", "copy", "prune"])
    assert done.exit_code == 2 and "--overwrite" in done.stderr and Path("prune.py").read_text() == "mine"
    assert CliRunner().invoke(cli.main, ["recipes", "copy", "prune", "--overwrite"]).exit_code == 0
    assert CliRunner().invoke(cli.main, ["recipes", "copy", "prune", "--out", "new/own.py"]).exit_code == 0
    assert Path("new/own.py").read_bytes() == Path("prune.py").read_bytes()


@pytest.mark.parametrize("command", ["show", "copy"])
def test_an_unknown_recipe_cannot_be_shown_or_copied(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["recipes", command, "prun"])
    assert done.exit_code == 2 and "got prun. Did you mean prune" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_can_be_made(shell, monkeypatch):
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", staticmethod(lambda: None))
    done = CliRunner().invoke(cli.main, prog_name="tfopt", env={"_TFOPT_COMPLETE": f"{shell}_source"})
    assert done.exit_code == 0 and f"_TFOPT_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tfopt re", ["report", "recipes"]),
        ("tfopt run deep", ["deep_compression"]),
        ("tfopt check model.keras --recipe quant", ["quantize_aware"]),
        ("tfopt recipes show low", ["low_bit"]),
        ("tfopt recipes co", ["copy"]),
    ],
)
def test_commands_and_recipes_are_completed(typed, expected):
    variables = {"_TFOPT_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = CliRunner().invoke(cli.main, prog_name="tfopt", env=variables)
    found = [line.partition(",")[2] for line in done.stdout.splitlines() if line.startswith("plain,")]
    assert sorted(found) == sorted(expected)
