"""check says what a recipe does, layer by layer; the stages and the file then do just that."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt.cli import main
from tfopt.errors import ModelError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.write import export

RECIPE = tfopt.Recipe(
    stages=(
        tfopt.Prune(final_sparsity=0.75, layers=(("inline", 0.5), ("head", False))),
        tfopt.Cluster(number_of_clusters=8, layers=(("apart", False),)),
        tfopt.Quantize(),
    ),
    name="tried",
)


@pytest.fixture(scope="module")
def model(small_model):
    import keras

    return small_model(keras)


@pytest.fixture(scope="module")
def found(model):
    before = [weight.copy() for weight in model.get_weights()]
    result = tfopt.check(model, RECIPE)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    return result


def test_a_subclassed_model():
    import keras

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.wide, self.head = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)

        def call(self, x):
            return self.head(self.wide(x))

    model = Own()
    model(np.zeros((1, 5), "float32"))
    found = tfopt.check(model)
    assert found.ok and not found.by_hand
    assert [row.kind for row in found.layers] == ["Dense", "Dense"]


@pytest.mark.parametrize("held", ["input", "output"])
def test_an_input_or_output_in_a_dict(held):
    import keras

    inputs = keras.Input((5,), name="x")
    made = keras.layers.Dense(3, activation="softmax")(inputs)
    model = keras.Model({"x": inputs} if held == "input" else inputs, {"y": made} if held == "output" else made)
    data = (np.random.default_rng(0).normal(size=(60, 5)).astype("float32"), np.arange(60) % 3)
    with pytest.raises(ModelError, match=r"in a dict or list\. Take them out: keras\.Model\(model\.inputs\[0\]"):
        tfopt.optimize(model, tfopt.Recipe(stages=()), data, quiet=True)
    flat = keras.Model(model.inputs[0], model.outputs[0])
    assert tfopt.optimize(flat, tfopt.Recipe(stages=()), data, quiet=True).lite.size


def test_every_layer_has_a_row_with_its_path(found, model):
    inner = model.get_layer("inner")
    expected = [layer.name for layer in model.layers if layer.name not in ("inner", model.layers[0].name)]
    expected += [f"inner/{layer.name}" for layer in inner.layers[1:]]
    assert sorted(row.path for row in found.layers) == sorted(expected)
    assert found.ok
    assert found.stages == ("Prune", "Cluster", "Quantize")
    assert {row.kind for row in found.layers if row.path.endswith("norm")} == {"BatchNormalization"}


@pytest.mark.parametrize(
    ("layer", "prune", "cluster"),
    [
        ("stem", "75 % zeros", "8 clusters"),
        ("inline", "50 % zeros", "8 clusters"),
        ("head", "no: by rule", "8 clusters"),
        ("apart", "75 % zeros", "no: by rule"),
        ("inner/depth", "no: spared", "no: spared"),
        ("stem_norm", "no: no kernel", "no: no kernel"),
    ],
)
def test_the_cells_are_what_the_rules_and_defaults_say(found, layer, prune, cluster):
    row = next(row for row in found.layers if row.path == layer)
    assert row.stages[0].startswith(prune)
    assert row.stages[1].startswith(cluster)


def test_what_is_said_of_pruning_is_what_pruning_does(found, model, samples):
    stage = RECIPE.stages[0]
    applied = stage.apply(model, steps=2)
    applied.compile("sgd", "sparse_categorical_crossentropy")
    applied.fit(samples[0][:64], samples[1][:64], batch_size=32, verbose=0, callbacks=stage.callbacks())
    pruned = stage.strip(applied)
    for row in found.layers:
        *outer, name = row.path.split("/")
        layer = (pruned.get_layer(outer[0]) if outer else pruned).get_layer(name)
        zeros = max((np.mean(weight == 0) for weight in layer.get_weights() if weight.ndim > 1), default=0.0)
        assert (zeros >= 0.49) == row.stages[0].endswith("zeros"), row


def test_the_last_column_is_what_the_file_holds(found):
    cells = {row.path: row.file for row in found.layers}
    assert cells["stem"] == "int8 CONV_2D"
    assert cells["inner/depth"] == "int8 DEPTHWISE_CONV_2D"
    assert cells["stem_norm"] == "int8 CONV_2D"  # folded into the convolution as its bias
    assert cells["drop"] == ""
    assert "int8" in cells["head"]
    assert "FULLY_CONNECTED" in cells["head"]


def test_names_that_contain_each_other_are_distinguished():
    import keras

    layers = keras.layers
    inputs = keras.Input((4,))
    outputs = layers.Dense(2, name="my_b")(layers.Dense(3, activation="tanh", name="b")(inputs))
    lite = LiteModel(
        export.convert(keras.Model(inputs, outputs), tfopt.Export(weights="float32", activations="float32"))
    )
    from tfopt.run.check import operators_of

    assert operators_of(lite, "b") == "float32 FULLY_CONNECTED, TANH"
    assert operators_of(lite, "my_b") == "float32 FULLY_CONNECTED"
    assert operators_of(lite, "y_b") == ""


def test_as_json(found):
    data = json.loads(found.to_json())
    assert data["ok"] is True
    assert len(data["layers"]) == len(found.layers)
    assert set(data["layers"][0]) == {"path", "kind", "bridged", "stages", "file"}


def test_what_stops_the_recipe_is_a_problem_not_an_exception(model):
    recipe = tfopt.Recipe(stages=(tfopt.Prune(layers=(("nowhere", False),)), tfopt.Quantize()), name="wrong")
    found = tfopt.check(model, recipe)
    assert not found.ok
    assert "matches no layer" in found.problems[0]
    assert found.layers
    assert all(row.file is None for row in found.layers)
    assert "cannot run" in str(found)


def test_a_model_that_cannot_be_bridged_keeps_its_reason():
    with pytest.raises(ModelError, match="Expected a Keras model, the path of one, or a TF-Hub handle"):
        tfopt.check(object(), RECIPE)


@pytest.mark.parametrize(("rule", "code"), [("stem", 0), ("nowhere", 1)])
def test_the_command(rule, code, model, tmp_path):
    model.save(tmp_path / "m.keras")
    recipe = tfopt.Recipe(stages=(tfopt.Prune(layers=((rule, 0.5),)),), name="r")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    arguments = ["check", str(tmp_path / "m.keras"), "--recipe", str(tmp_path / "recipe.json"), "--no-convert"]
    done = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "found.json")])
    assert done.exit_code == code, done.output
    assert json.loads((tmp_path / "found.json").read_text())["ok"] is (code == 0)
    assert "inner/conv" in done.output
    assert ("problem: " in done.output) is bool(code)


def test_the_command_refuses_what_is_not_a_model(tmp_path):
    (tmp_path / "m.keras").write_text("nothing")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "m.keras")])
    assert done.exit_code == 2
    assert "not a model file" in done.output


def test_a_promise_that_the_file_would_break_is_a_problem_before_training(model, monkeypatch):
    # The converter's own integers: a scale for each channel makes other values of equal weights.
    monkeypatch.setattr(export, "store_integers", lambda data, *_: (data, []))
    found = tfopt.check(model, RECIPE)
    assert not found.ok
    assert any("breaks a promise" in problem and "different weights" in problem for problem in found.problems)
