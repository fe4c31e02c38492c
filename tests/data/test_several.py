"""Data for models with several inputs or outputs: reading, checks, names."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt.base.keras_compat import tf_keras
from tfopt.data import load_data
from tfopt.data.names import named_as
from tfopt.errors import DataError
from tfopt.tasks import Classification, Regression, Several, task_of

COUNT = 60
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (COUNT, 4, 4, 1)).astype("uint8")
FACTS = RNG.normal(size=(COUNT, 3))
KIND = np.arange(COUNT) % 3
AGE = RNG.normal(40, 10, COUNT)
X, Y = {"image": IMAGE, "facts": FACTS}, {"kind": KIND, "age": AGE}


def model(api=keras, *, structure="list"):
    image, facts = api.Input((4, 4, 1), name="image"), api.Input((3,), name="facts")
    joined = api.layers.Concatenate()([api.layers.Flatten()(image), facts])
    kind = api.layers.Dense(3, activation="softmax", name="kind")(joined)
    age = api.layers.Dense(1, name="age")(joined)
    if structure == "dict":
        return api.Model({"image": image, "facts": facts}, {"kind": kind, "age": age})
    return api.Model([image, facts], [kind, age])


def rows_of(data):
    """The samples of all parts by the value of their age, which is different for each."""
    parts = (data.train, data.validation, data.test)
    ages = np.concatenate([part.labels["age"] for part in parts])
    return {float(age): place for place, age in enumerate(ages)}, parts


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        {"train": (X, Y)},
        ([IMAGE, FACTS], [KIND, AGE]),
        tf.data.Dataset.from_tensor_slices((X, Y)),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(7),
        tf.data.Dataset.from_tensor_slices(((IMAGE, FACTS), (KIND, AGE))).batch(7),
    ],
    ids=["dicts", "dict of pairs", "lists", "tf.data", "batches", "batches of tuples"],
)
def test_samples_stay_together_in_all_forms(source):
    data = named_as(model(), load_data(source))
    assert list(data.train.inputs) == ["image", "facts"] and list(data.train.labels) == ["kind", "age"]
    assert sum(map(len, (data.train, data.validation, data.test))) == COUNT
    for part in (data.train, data.validation, data.test):
        for place, age in enumerate(part.y()["age"]):
            row = int(np.argmin(np.abs(AGE - age)))
            np.testing.assert_allclose(part.x()["facts"][place], FACTS[row], rtol=1e-6)
            np.testing.assert_array_equal(part.x()["image"][place], IMAGE[row])
            assert part.y()["kind"][place] == KIND[row]


def test_each_output_has_its_task():
    data = load_data((X, Y))
    task = task_of(data)
    assert isinstance(task, Several)
    assert task.tasks == {"kind": Classification("sparse", 3), "age": Regression("values", None)}
    alone = data.of_output("age")
    assert alone.task == "regression" and alone.train.labels.shape == (len(data.train),)
    text = "\n".join(data.describe())
    assert "task of kind: classification, 3 classes, sparse labels" in text
    assert "input 'facts': shape (3,), values as they are" in text


def test_splits_are_even_over_the_classes_of_an_output():
    data = load_data((X, Y))
    assert np.bincount(data.test.labels["kind"]).tolist() == [4, 4, 4]


def test_preprocessing_is_for_images():
    data = load_data((X, Y), preprocessing="unit")
    assert data.train.x()["image"].max() <= 1 and data.train.x()["facts"].dtype == np.float32
    np.testing.assert_allclose(data.train.x()["image"] * 255, data.train.inputs["image"], rtol=1e-5)


def test_metrics_of_all_outputs():
    data = load_data((X, Y))
    test = data.test
    exact = [np.eye(3)[test.labels["kind"]], test.labels["age"][:, None] + 2.0]
    found = task_of(data).measured(exact, test)
    assert found == pytest.approx({"kind_accuracy": 1, "age_mse": 4, "age_mae": 2}, rel=1e-5)
    by_name = task_of(data).measured(dict(zip(("kind", "age"), exact, strict=True)), test)
    assert by_name == found


def test_batches_have_the_names():
    data = load_data((X, Y))
    orders = []
    for _ in range(2):
        seen = []
        for x, y in data.batches("train", 16, shuffle=True, seed=3):
            assert set(x) == {"image", "facts"} and set(y) == {"kind", "age"}
            assert x["image"].shape[1:] == (4, 4, 1) and y["age"].dtype == tf.float32
            seen += list(y["age"].numpy())
        orders.append(seen)
    assert orders[0] == orders[1] and sorted(orders[0]) == sorted(data.train.labels["age"])


def test_fingerprints_depend_on_names_and_values():
    one = load_data((X, Y)).fingerprint
    assert load_data((dict(X), dict(Y))).fingerprint == one
    assert load_data(({"image": IMAGE, "notes": FACTS}, Y)).fingerprint != one
    assert load_data(({"image": IMAGE, "facts": FACTS + 1e-3}, Y)).fingerprint != one


@pytest.mark.parametrize("structure", ["list", "dict"])
@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_names_are_those_of_the_model(api, structure):
    data = named_as(model(api, structure=structure), load_data((X, {"age": AGE, "kind": KIND})))
    order = ["age", "kind"] if structure == "dict" else ["kind", "age"]
    assert list(data.outputs) == list(data.train.labels) == order
    assert set(data.train.inputs) == {"image", "facts"}


def test_names_as_tensorflow_writes_them():
    one, other = keras.Input((3,), name="left eye"), keras.Input((3,), name="right:0")
    flat = tf_keras().Model
    layers = tf_keras().layers
    inputs = [layers.Input((3,), name="left_eye"), layers.Input((3,), name="right_0")]
    data = load_data(({"left eye": FACTS, "right:0": FACTS + 1}, AGE))
    renamed = named_as(flat(inputs, layers.Dense(1)(layers.Add()(inputs))), data)
    assert list(renamed.train.inputs) == ["left_eye", "right_0"]
    np.testing.assert_allclose(renamed.train.inputs["right_0"] - renamed.train.inputs["left_eye"], 1, rtol=1e-5)
    assert named_as(keras.Model([one, other], keras.layers.Dense(1)(one + other)), data).train.inputs.keys() == {
        "left eye",
        "right:0",
    }


def test_one_of_several_is_taken_out():
    image = keras.Input((4, 4, 1), name="image")
    alone = keras.Model(image, keras.layers.Dense(1, name="age")(keras.layers.Flatten()(image)))
    data = named_as(alone, load_data(({"image": IMAGE}, {"age": AGE})))
    assert data.outputs is None and data.task == "regression" and data.input_shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ((IMAGE, Y), "takes the inputs image, facts; the data have one without a name"),
        ((X, KIND), "gives the outputs kind, age; the data have one without a name"),
        (({"image": IMAGE, "extra": FACTS}, Y), "image, facts; the data have image, extra.*missing: facts"),
        ((X, {"kind": KIND}), "gives the outputs kind, age; the data have kind.*missing: age"),
        (({"a": IMAGE, "b": FACTS}, Y), "the data have a, b. Name the arrays as the model does; pass a dict"),
    ],
)
def test_other_names_than_the_model_has(source, words):
    with pytest.raises(DataError, match=words):
        named_as(model(), load_data(source))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (({"image": IMAGE, "facts": FACTS[:-1]}, Y), "equally many samples .* 60 inputs 'image', 59 inputs 'facts'"),
        ((X, {"kind": KIND, "age": AGE[:50]}), "60 labels 'kind', 50 labels 'age'; pair them up"),
        (({}, Y), "train inputs by name, got an empty dict"),
        (({"image": IMAGE, "facts": np.full((COUNT, 3), np.nan)}, Y), "finite train facts inputs"),
        ((X, {"kind": KIND, "age": np.array(["old"] * COUNT)}), "Output 'age': Expected train labels as numbers"),
        ({"train": (X, Y), "test": (X, KIND)}, "same outputs in all parts, got: train has age, kind; test has one"),
        ({"train": (X, Y), "test": (IMAGE, Y)}, "same inputs in all parts, got: train has facts, image; test has one"),
        (
            {"train": (X, Y), "test": ({"image": IMAGE, "facts": FACTS[:, :2]}, Y)},
            r"train has floats of shape \(3,\) and uint8 of shape \(4, 4, 1\); test has floats of shape \(2,\) and",
        ),
    ],
)
def test_several_that_do_not_fit_together(source, words):
    with pytest.raises(DataError, match=words):
        load_data(source)


def test_arrays_of_a_file(tmp_path):
    keys = {"x/image": IMAGE, "x/facts": FACTS, "y/kind": KIND, "y/age": AGE}
    np.savez(tmp_path / "several.npz", **keys)
    assert load_data(tmp_path / "several.npz").fingerprint == load_data((X, Y)).fingerprint


def test_a_list_of_samples_is_no_list_of_inputs():
    data = load_data((list(FACTS), KIND))
    assert not data.has_several and data.input_shape == (3,)


def test_weights_of_one_column_belong_to_parts():
    """Three inputs and two outputs stay what they are, also if the last input has one column."""
    x, y, w = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2, np.linspace(0.1, 1, 30)[:, None]
    data = load_data(((x, y, w), (x, y), (x, y)))
    assert data.train.weights == pytest.approx(np.linspace(0.1, 1, 30)) and len(data.validation) == 30
    assert list(load_data(((x, x, w), (y, y))).train.inputs) == ["0", "1", "2"]


def test_outputs_without_weights_have_weights_of_1():
    x, labels = np.zeros((20, 2), np.float32), {"kind": np.arange(20) % 2, "age": np.arange(20.0)}
    weights = load_data((x, labels, {"age": np.arange(1, 21)})).train.weights
    assert set(weights) == {"kind", "age"} and (weights["kind"] == 1).all() and (weights["age"] > 1).any()
