"""What a checkpoint keeps and what it refuses, on models that are lists of arrays."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tfopt.errors import DataError, ModelError
from tfopt.evaluate.report import Row
from tfopt.run import checkpoint as checkpoints
from tfopt.run.checkpoint import Checkpoint, Kept
from tfopt.run.guard import Evaluation

ROW = Row(
    step="Prune", metrics={"accuracy": 0.5}, parameters=4, nonzero_parameters=2, max_unique_weights=3, bytes=9,
    deflated_bytes=8, latency_ms=None, seconds=1.0, notes=["a note"],
)  # fmt: skip


class Model:
    """A model of weights alone."""

    def __init__(self, *weights):
        self.weights = list(weights)

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights


@pytest.fixture
def file(tmp_path):
    return Checkpoint(tmp_path / "run.npz", "key")


def test_weights_come_back_in_their_order(file):
    weights = [np.full((2, number + 1), number, np.float32) for number in range(12)]  # weight_10 is not after weight_1
    file.save(Model(*weights), [ROW, ROW], recipe='{"a": 1}')
    kept = file.load()
    assert (kept.rows, kept.model, kept.recipe) == ([ROW, ROW], None, '{"a": 1}')
    for found, weight in zip(kept.weights, weights, strict=True):
        np.testing.assert_array_equal(found, weight)
    with np.load(file.path) as stored:
        assert sorted(stored.files) == sorted(["key", "rows", "recipe", *(f"weight_{number}" for number in range(12))])
    file.save(Model(), [])
    assert file.load() == Kept([], [], None, "")


def test_a_resized_model_is_kept_whole(file, monkeypatch):
    monkeypatch.setattr(checkpoints, "as_file", lambda model: b"\x00the model\xff")
    file.save(Model(np.ones(3)), [ROW], resized=True)
    kept = file.load()
    assert (kept.weights, kept.rows, kept.model, kept.recipe) == ([], [ROW], b"\x00the model\xff", "")


def test_a_model_as_the_contents_of_a_file(monkeypatch):
    places = []

    def save_model(model, path):
        places.append(path)
        path.write_bytes(model.encode())

    monkeypatch.setattr(checkpoints, "save_model", save_model)
    assert checkpoints.as_file("a model") == b"a model"
    assert places[0].suffix == ".keras" and not places[0].parent.exists()


def test_a_checkpoint_of_before_has_no_recipe(file):
    np.savez(file.path, key="key", rows="[]", weight_0=np.ones(2))
    assert file.load().recipe == ""


def test_only_the_same_run_loads(file):
    assert file.load() is None
    file.save(Model(), [ROW])
    assert all(Checkpoint(file.path, key).load() is None for key in ("another", "ke", "keys", "other", ""))
    assert Checkpoint(file.path, "key").load().rows == [ROW]


def test_rows_are_of_the_kinds_that_were_written(file):
    file.save(Model(), [ROW])
    with np.load(file.path) as stored:
        (row,) = json.loads(str(stored["rows"]))
    row["bytes"] = "9"
    np.savez(file.path, key="key", rows=json.dumps([row]))
    with pytest.raises(DataError, match="is damaged"):
        file.load()


def test_a_gap_in_the_weights_is_damage(file):
    np.savez(file.path, key="key", rows="[]", weight_0=np.ones(2), weight_2=np.ones(2))
    with pytest.raises(DataError, match="is damaged"):
        file.load()


# The best model so far


def test_the_best_evaluation_comes_back(file):
    file.save(Model(), [ROW], best=Evaluation(0.75, -2.5, np.array([1.0, 0.0, 1.0])))
    best = file.load().best
    assert (best.metric, best.quality, best.by_sample.tolist()) == (0.75, -2.5, [1.0, 0.0, 1.0])
    assert best.by_sample.dtype == np.float64 and type(best.metric) is type(best.quality) is float


@pytest.mark.parametrize("best", [None, Evaluation(0.75, 0.5, None)])
def test_an_evaluation_without_samples_is_not_kept(file, best):
    file.save(Model(), [ROW], best=best)
    assert file.load().best is None
    with np.load(file.path) as stored:
        assert "best" not in stored.files and "best_by_sample" not in stored.files


@pytest.mark.parametrize(
    ("numbers", "by_sample"),
    [
        ([0.5], [1.0]),
        ([0.5, 0.5, 0.5], [1.0]),
        ([[0.5, 0.5]], [1.0]),
        ([0.5, 0.5], 1.0),
        ([0.5, 0.5], [[1.0]]),
        ([np.nan, 0.5], [1.0]),
        ([0.5, np.inf], [1.0]),
        ([0.5, 0.5], [1.0, np.nan]),
    ],
)
def test_an_evaluation_that_is_none_is_damage(file, numbers, by_sample):
    np.savez(file.path, key="key", rows="[]", best=np.array(numbers), best_by_sample=np.array(by_sample))
    with pytest.raises(DataError, match=r"is damaged \(.*the evaluation of its best model cannot be read"):
        file.load()


# Resuming


@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "float16", "float32"])
def test_a_clone_gets_the_weights(file, monkeypatch, kind):
    clones = []
    monkeypatch.setattr(checkpoints.bridge, "clone", lambda model: clones.append(Model(*model.weights)) or clones[-1])
    start, kept = Model(np.zeros((2, 3)), np.zeros(1)), [np.ones((2, 3), kind), np.ones(1, kind)]
    before = start.weights
    assert file.resumed(Kept(kept, [ROW]), start, resized=False) is clones[0]
    assert clones[0].weights is kept and start.weights is before


@pytest.mark.parametrize(
    "kept",
    [
        [np.ones((3, 2)), np.ones(1)],
        [np.ones((2, 3))],
        [np.ones((2, 3)), np.ones(1), np.ones(1)],
        [],
        [np.ones((2, 3)), np.ones(1, "complex64")],
        [np.ones((2, 3), "U3"), np.ones(1)],
        [np.ones((2, 3)), np.ones(1, "M8[s]")],
    ],
)
def test_weights_that_do_not_fit(file, kept):
    start = Model(np.zeros((2, 3)), np.zeros(1))
    before = start.weights
    with pytest.raises(DataError) as caught:
        file.resumed(Kept(kept, [ROW]), start, resized=False)
    assert str(caught.value) == f"The checkpoint {file.path} is damaged (its weights do not fit the model)."
    assert start.weights is before


def layered(*layers, input_shape=(None, 4), output_shape=(None, 2)):
    """A model of layers, each a name and a class."""
    made = [type(kind, (), {"__module__": module})() for _, kind, module in layers]
    for layer, (name, _, _) in zip(made, layers, strict=True):
        layer.name = name
    return SimpleNamespace(layers=made, input_shape=input_shape, output_shape=output_shape)


INPUT, DENSE, OWN = ("in", "InputLayer", "tf_keras.src"), ("a", "Dense", "tf_keras.src"), ("b", "Twice", "mine.layers")
START = layered(INPUT, DENSE, OWN, ("c", "Twin", "tfopt.bridge"), ("d", "Other", "tf_keras_extras"))


@pytest.fixture
def resumed(file, monkeypatch):
    """Resume with a file that loads as the given model; returns the model and what it was loaded with."""

    def resume(model, start=START, *, is_tf_keras=True):
        asked = {}

        def load_model(path, custom_objects):
            asked.update(custom_objects, data=path.read_bytes(), suffix=path.suffix)
            if isinstance(model, Exception):
                raise model
            return model

        monkeypatch.setattr(checkpoints, "load_model", load_model)
        monkeypatch.setattr(checkpoints, "is_tf_keras_model", lambda model: is_tf_keras)
        return file.resumed(Kept([], [ROW], b"the model"), start, resized=True), asked

    return resume


def test_a_whole_model_loads_with_the_classes_of_the_caller_only(resumed):
    found, asked = resumed(START)
    assert found is START
    assert asked == {
        "Twice": type(START.layers[2]), "Other": type(START.layers[4]), "data": b"the model", "suffix": ".keras",
    }  # fmt: skip


def test_inputs_are_numbered_so_their_names_do_not_count(resumed):
    start = layered(INPUT, DENSE)
    model = layered(("in_7", "InputLayer", "tf_keras.src"), DENSE)
    assert resumed(model, start)[0] is model


@pytest.mark.parametrize(
    "model",
    [
        layered(INPUT, ("z", "Dense", "tf_keras.src")),
        layered(INPUT, ("a", "Conv2D", "tf_keras.src")),
        layered(INPUT),
        layered(INPUT, DENSE, OWN),
        layered(INPUT, DENSE, input_shape=(None, 5)),
        layered(INPUT, DENSE, output_shape=(None, 3)),
    ],
    ids=["name", "class", "fewer", "more", "input", "output"],
)
def test_a_model_of_other_layers_is_refused(resumed, model):
    with pytest.raises(DataError, match=r"is damaged \(its model has other layers\)\.$"):
        resumed(model, layered(INPUT, DENSE))


def test_a_model_of_another_keras_is_refused(resumed):
    with pytest.raises(DataError, match=r"is damaged \(its model has other layers\)\.$"):
        resumed(START, is_tf_keras=False)


def test_a_model_that_does_not_load_is_damage(resumed):
    error = ModelError("Unknown layer.")
    with pytest.raises(DataError, match=r"is damaged \(its model cannot be loaded: Unknown layer\.\)\.$") as caught:
        resumed(error)
    assert caught.value.__cause__ is error
    with pytest.raises(DataError, match="is damaged"):
        resumed(ValueError("anything else"))


def test_a_resized_run_needs_a_model(file):
    with pytest.raises(DataError, match=r"is damaged \(it holds no model\)\.$"):
        file.resumed(Kept([np.ones(3)], [ROW]), START, resized=True)
