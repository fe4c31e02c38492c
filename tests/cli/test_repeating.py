"""`tfopt run --repeats` resumes, keeps what succeeded, and gives mean and spread of what it wrote."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.cli import repeating
from tfopt.errors import PromiseError
from tfopt.run import optimize


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that runs a quick recipe with two seeds, 3 and 4, into `out`."""
    import keras

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")]).save(tmp_path / "model.keras")
    recipe = tfopt.Recipe(stages=(tfopt.Cluster(number_of_clusters=4, epochs=1, min_steps=0),), max_drop=None)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    named = {name: tmp_path / file for name, file in (("--model", "model.keras"), ("--data", "data.npz"))}
    fixed = [tmp_path / "recipe.json", *(part for pair in named.items() for part in pair), "--out", tmp_path / "out"]

    def run(*more):
        arguments = ["run", *fixed, "--seed", 3, "--repeats", 2, "--quiet", *more]
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def seeds(monkeypatch):
    """The seeds that were carried out; what `fail` holds for a seed is raised after it."""
    done, fail, carry_out = [], {}, optimize.carry_out

    def watched(prepared):
        done.append(prepared.recipe.training.seed)
        result = carry_out(prepared)
        if done[-1] in fail:
            raise fail.pop(done[-1])
        return result

    monkeypatch.setattr(optimize, "carry_out", watched)
    return done, fail


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_an_interrupted_command_resumes_with_the_seed_that_has_not_finished(command, seeds, tmp_path):
    done, fail = seeds
    fail[4] = KeyboardInterrupt()
    assert command().exit_code != 0
    assert names(tmp_path / "out") == [".tfopt"]
    left = [tmp_path / "out" / ".tfopt" / "repeats" / f"seed_{seed}" / ".tfopt" / "new-0123456789ab" for seed in (3, 4)]
    for folder in left:  # as a kill leaves it while a seed is saved
        folder.mkdir(parents=True)
        (folder / "model.tflite").touch()
    ended = command()
    assert ended.exit_code == 0, ended.output
    assert done == [3, 4, 4]
    assert names(tmp_path / "out") == ["repeats.json", "seed_3", "seed_4"]
    assert not list((tmp_path / "out").rglob(".tfopt"))
    assert names(tmp_path) == ["data.npz", "model.keras", "out", "recipe.json"]
    found = json.loads((tmp_path / "out" / "repeats.json").read_text())
    reports = [json.loads((tmp_path / "out" / f"seed_{seed}" / "report.json").read_text()) for seed in (3, 4)]
    assert [report["recipe"]["training"]["seed"] for report in reports] == found["seeds"] == [3, 4]
    first, second = (report["rows"][-1]["metrics"]["accuracy"] for report in reports)
    assert found["steps"][-1]["mean"]["accuracy"] == pytest.approx((first + second) / 2)
    assert f"{(first + second) / 2:.4f} ±" in ended.stdout


def test_the_results_of_a_seed_take_no_space_twice(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("result")
    repeating._link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino

    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    repeating._link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "result"


@pytest.mark.slow
def test_other_settings_do_not_take_the_results_of_an_interrupted_command(command, seeds):
    done, fail = seeds
    fail[4] = KeyboardInterrupt()
    command()
    del done[:]
    refused = command("--epochs-factor", 2)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    assert "seed_3 belongs to another run: recipe.stages.0.epochs was 1, is 2." in refused.stderr
    assert done == []  # nothing was trained before
    assert command("--epochs-factor", 2, "--overwrite").exit_code == 0
    assert done[-1] == 4


@pytest.mark.slow
def test_a_seed_that_breaks_a_promise_leaves_the_others_and_the_table(command, seeds, tmp_path):
    broken = PromiseError("The file broke.")
    broken.data = b"TFL3"
    seeds[1][3] = broken
    ended = command()
    assert ended.exit_code == 1
    assert names(tmp_path / "out") == ["repeats.json", "seed_3.failed.tflite", "seed_4"]
    assert "mean and standard deviation of seed 4" in ended.stdout
    kept = tmp_path / "out" / "seed_3.failed.tflite"
    assert f"error: 1 of 2 seeds failed. Seed 3: The file broke. The file is kept as {kept}." in ended.stderr


@pytest.mark.slow
def test_an_old_folder_is_replaced_as_a_whole(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    refused = command()
    assert refused.exit_code == 2 and "is not empty" in refused.stderr
    assert command("--overwrite").exit_code == 0
    assert names(tmp_path / "out") == ["repeats.json", "seed_3", "seed_4"]
