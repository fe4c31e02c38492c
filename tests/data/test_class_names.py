"""Names of classes: one for each class of the labels, a line each, and none for values."""

import dataclasses

import numpy as np
import pytest

from tfopt.data import load_data
from tfopt.errors import DataError

RNG = np.random.default_rng(0)
COUNT = 120
X = RNG.normal(size=(COUNT, 4)).astype("float32")
NUMBERS = np.arange(COUNT) % 3


def saved(tmp_path, y, names):
    outputs = {f"y/{key}": value for key, value in y.items()} if isinstance(y, dict) else {"y": y}
    np.savez(tmp_path / "data.npz", x=X, **outputs, class_names=np.array(names))
    return tmp_path / "data.npz"


ONE_HOT = np.eye(3, dtype="float32")[NUMBERS]
SEVERAL = np.stack([NUMBERS > 0, NUMBERS > 1, np.ones(COUNT)], axis=1).astype("float32")
PLACES = np.broadcast_to(ONE_HOT[:, None, None], (COUNT, 2, 2, 3))


@pytest.mark.parametrize("y", [ONE_HOT, SEVERAL, PLACES], ids=["one-hot", "multilabel", "places"])
@pytest.mark.parametrize(("names", "count"), [(["a", "b"], "2"), (["a", "b", "c", "d"], "4")])
def test_each_class_has_a_name(tmp_path, y, names, count):
    with pytest.raises(DataError, match=rf"a name for each of 3 classes in the labels, got {count} \(a, b"):
        load_data(saved(tmp_path, y, names))
    data = load_data(saved(tmp_path, y, ["a", "b", "c"]))
    assert (data.num_classes, data.class_names) == (3, ("a", "b", "c"))


def test_names_of_a_dataset_are_checked_too():
    data = load_data((X, NUMBERS))
    for names, words in ((("a", "b"), "each of 3 classes"), (("a", "b", "A"), "distinct"), (("a", "b\r", "c"), "line")):
        with pytest.raises(DataError, match=words):
            dataclasses.replace(data, class_names=names)


@pytest.mark.parametrize(
    ("y", "task", "why"),
    [
        (X[:, 0], None, "the labels are values"),
        (X[:, 0], "regression", "the labels are values"),
        (RNG.uniform(0, 1.99, COUNT), "regression", "the labels are values"),
        (np.arange(COUNT), "regression", "the labels are values"),  # there are two names
        (np.eye(2)[NUMBERS % 2], "regression", "the labels are values"),
        ({"a": X[:, 0], "b": NUMBERS}, None, "there are several outputs"),
    ],
)
@pytest.mark.parametrize("names", [["10", "20"], ["cat", "dog"]])
def test_values_have_no_names(tmp_path, y, task, why, names):
    data = load_data(saved(tmp_path, y, names), task=task)
    assert data.class_names is None
    assert f"class names left out, since {why}: {', '.join(names)}" in data.notes
    if not isinstance(y, dict):
        found = np.concatenate([part.labels.ravel() for part in (data.train, data.validation, data.test)])
        np.testing.assert_array_equal(np.sort(found), np.sort(y.astype("float32").ravel()))


@pytest.mark.parametrize("y", [NUMBERS, NUMBERS[:, None], NUMBERS.astype("uint8")])
def test_numbers_of_classes_are_the_values_that_are_their_names(tmp_path, y):
    data = load_data(saved(tmp_path, y, ["10", "20", "2.5"]), task="regression")
    assert set(data.train.labels.ravel()) == {10, 20, 2.5} and data.class_names is None
    with pytest.raises(DataError, match="values for the task 'regression', got classes with names, such as 'cat'"):
        load_data(saved(tmp_path, y, ["cat", "20", "2.5"]), task="regression")


def test_a_name_is_one_line(tmp_path):
    rows = [f'{number},"{name}"' for number, name in enumerate(["cat", "dog\nbig", "eel"] * 20)]
    (tmp_path / "a.csv").write_text("\n".join(["x,label", *rows]))
    with pytest.raises(DataError, match=r"a\.csv: .*fit on one line, got 'dog\\nbig' with '\\n'; rename the class"):
        load_data(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a\tb", "a\rb", "a\u2028b", "\x00", "a\x85"])
def test_characters_that_no_line_holds(tmp_path, name):
    with pytest.raises(DataError, match="names of classes that fit on one line"):
        load_data(saved(tmp_path, NUMBERS, ["x", "y", f"{name}z"]))
    data = load_data(saved(tmp_path, NUMBERS, ["Grüße, 'a' & b", "猫", "🐕\u200d🦺"]))
    assert data.class_names == ("Grüße, 'a' & b", "猫", "🐕\u200d🦺")
