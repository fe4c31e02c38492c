"""Widths chosen by files."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.errors import RecipeError
from tfopt.search import widths
from tfopt.search.widths import choose_widths
from tfopt.tflite.settings import Export

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
Y = (X[:, :4].sum(axis=1) > 0).astype("int32")


def stack():
    keras.utils.set_random_seed(0)
    layers = [
        L.Dense(n, how, bias_initializer="random_normal") for n, how in ((128, "relu"), (128, "relu"), (2, "softmax"))
    ]
    return keras.Sequential([keras.Input((16,)), *layers])


def test_bytes_of_the_exported_file(tmp_path):
    stage = tfopt.PruneChannels(final_ratio=0.5, measure="bytes", epochs=0)
    with pytest.raises(RecipeError, match="choose_widths"):
        stage.apply(stack(), steps=0)
    model, export = stack(), Export(weights="int8", activations="int8")
    chosen, notes = choose_widths(stage, model, X, export)
    wrapped = chosen.apply(model, steps=0)
    chosen.calibrate(wrapped, X)
    small = chosen.strip(wrapped)
    sizes = [
        tfopt.export_tflite(each, tmp_path / "m.tflite", export, representative_data=X).size for each in (small, model)
    ]
    share = sizes[0] / sizes[1]
    assert 0.4 < share <= 0.5 and f"{share:.3f} of the bytes" in notes[0]
    assert all(width % 8 == 0 for width in chosen.widths)
    assert choose_widths(chosen, model, X) == (chosen, [])


def test_milliseconds_are_those_of_files_timed_side_by_side(monkeypatch):
    """With times that are the multiplications plus a constant, the widths are known: 0.6 = (m + 2000) / (M + 2000)."""
    monkeypatch.setattr(
        widths, "interleaved_times", lambda files, **_: [np.full((1, 1), f.macs() + 2000.0) for f in files]
    )
    stage = tfopt.PruneChannels(final_ratio=0.6, measure="milliseconds", epochs=0)
    chosen, notes = choose_widths(stage, stack(), X)
    first, second = chosen.widths
    macs = 16 * first + first * second + 2 * second
    whole = 16 * 128 + 128 * 128 + 2 * 128
    assert 0.5 < (macs + 2000) / (whole + 2000) <= 0.6
    assert "measured side by side" in notes[0]


def test_what_no_file_reaches_is_said():
    stage = tfopt.PruneChannels(final_ratio=0.05, measure="bytes", epochs=0)
    with pytest.raises(
        RecipeError, match=r"final_ratio=0.05 cannot be reached: the smallest file has 0\.\d+ of the bytes"
    ):
        choose_widths(stage, stack(), X)


def test_a_recipe_chooses_when_the_stage_starts(tmp_path):
    stage = tfopt.PruneChannels(final_ratio=0.6, measure="bytes", epochs=2, min_steps=0)
    recipe = tfopt.Recipe(stages=(stage,), export=Export(weights="int8", activations="int8"), max_drop=None)
    result = tfopt.optimize(stack(), recipe, ((X, Y), (X, Y)), quiet=True)
    assert result.recipe.stages[0].widths == () and result.report.rows[-1].macs < 16 * 128 + 128 * 128
    assert any("of the bytes" in note for row in result.report.rows for note in row.notes)
