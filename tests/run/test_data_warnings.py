"""Warnings before training, on data made by hand."""

import numpy as np
import pytest
import scipy.stats

import tfopt
from tfopt.errors import DataError, RecipeError
from tfopt.run.data_warnings import data_warnings, recalls
from tfopt.training.class_weights import class_weights

RNG = np.random.default_rng(0)


def data_of(counts, test=None):
    """`counts` training samples of each class; validation and test have five of each, unless `test` is given."""
    y = np.repeat(np.arange(len(counts)), counts)
    few = np.repeat(np.arange(len(counts)), 5)
    parts = [(RNG.normal(size=(len(labels), 2)).astype("float32"), labels) for labels in (y, few, few)]
    return tfopt.load_data((*parts[:2], test or parts[2]))


def test_nothing_to_warn_of_in_ordinary_data():
    assert data_warnings(data_of([20, 20, 20]), 3) == []


def test_samples_in_two_parts():
    train = RNG.normal(size=(30, 2)).astype("float32")
    labels = np.arange(30) % 3
    data = tfopt.load_data(((train, labels), (RNG.normal(size=(9, 2)), labels[:9]), (train[10:16], labels[10:16])))
    assert data_warnings(data, 3) == ["6 of 6 test samples are in the training data, too: data leakage"]


def test_rows_of_a_table_may_be_alike_by_nature():
    rows = np.rec.fromarrays([np.tile([1.0, 2.0], 40), np.repeat(["a", "b"], 40).astype(object)], names=["n", "k"])
    data = tfopt.load_data((rows, np.arange(80) % 2), preprocessing=tfopt.inputs.Table())
    assert data_warnings(data, 2)[-1] == (
        "16 of 16 test rows have the features of a training row: data leakage, unless different rows may be alike"
    )


def test_classes_that_the_labels_do_not_show():
    assert data_warnings(data_of([20, 20]), 1000) == ["the labels show 2 of the model's 1,000 classes"]


def test_parts_without_a_class():
    only = RNG.normal(size=(10, 2)).astype("float32"), np.zeros(10, int)
    said = data_warnings(data_of([20] * 6, test=only), 6)
    assert said == [
        "no test sample of class 1, class 2, class 3 and 2 more: whether the file knows it is not seen there"
    ]


def test_imbalance_and_rare_classes():
    said = data_warnings(data_of([90, 20, 3]), 3)
    assert said[0].startswith("imbalanced: 90 training samples of class 0, 3 of class 2; Training(class_weight=")
    assert said[1].startswith("class 2 has 3 training samples: too few")
    assert data_warnings(data_of([79, 20]), 2) == []  # less than four times as many


def test_recalls_by_hand():
    data = data_of([90, 20])
    answers = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 0])  # right: four of five, two of five
    assert recalls(data, np.eye(2)[answers]) == (
        "balanced accuracy 0.6000; recall by class: class 0 0.800, class 1 0.400"
    )
    assert recalls(data, answers[:, None] * 0.8).startswith("balanced accuracy 0.6000")
    assert recalls(data_of([30, 20]), np.eye(2)[answers]) == ""


GUESSES = "the model guesses: accuracy"
UNSURE = "the validation data cannot tell whether the model does more than guess: accuracy"


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (15, None),
        (9, None),
        (8, UNSURE),
        (7, UNSURE),
        (6, GUESSES),
        (5, GUESSES),
    ],
)
def test_a_model_that_guesses(right, said):
    """15 validation samples of three classes: a third is chance, two thirds are half of what guessing gets wrong."""
    data = data_of([20, 20, 20])
    answers = data.validation.y().copy()
    answers[right:] = (answers[right:] + 1) % 3
    found = data_warnings(data, 3, lambda x: np.eye(3)[answers])
    better = scipy.stats.binomtest(right, 15, 1 / 3, alternative="greater").pvalue <= 0.05
    worse = scipy.stats.binomtest(right, 15, 2 / 3, alternative="less").pvalue <= 0.05
    assert (better, worse) == (said is None, bool(said) and "guesses" in said)
    assert [text.startswith(said) for text in found] == [True] * (said is not None)


def test_an_untrained_model_guesses_before_it_is_trained():
    data = data_of([20, 20, 20])
    wrong = np.eye(3)[(data.validation.y() + 1) % 3]
    (found,) = data_warnings(data, 3, lambda x: wrong, learns=True)
    assert found.startswith(GUESSES) and "As untrained models do; if it is trained, the usual causes are" in found


@pytest.mark.parametrize("count", [1, 5])
def test_few_samples_do_not_show_that_a_model_guesses(count):
    """One sample of a class, named right: guessing has it right, too."""
    part = (np.ones((count, 2), "float32"), np.zeros(count, int))
    train = (RNG.normal(size=(40, 2)).astype("float32"), np.arange(40) % 2)
    (found,) = data_warnings(tfopt.load_data((train, part, train)), 2, lambda x: np.eye(2)[[0] * count])[-1:]
    samples = "1 validation sample" if count == 1 else f"{count} validation samples"
    assert found == f"{UNSURE} 1.0000 on {samples}, where always predicting the most frequent class has 1.0000"


def test_balanced_class_weights_by_hand():
    data = data_of([60, 30, 10])
    weights = class_weights(tfopt.Training(class_weight="balanced"), data)
    assert list(weights) == [""] and weights[""] == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    assert class_weights(tfopt.Training(), data) == {}
    values = tfopt.load_data((RNG.normal(size=(40, 2)), RNG.normal(size=(40, 1))))
    with pytest.raises(RecipeError, match=r"^class_weight=\"balanced\" is for a classification; the data are for"):
        class_weights(tfopt.Training(class_weight="balanced"), values)


def test_named_classes_must_be_the_models(write_photos, tmp_path, small_model):
    """Two folders of photos for a model of four classes used to be accepted in silence."""
    import keras

    write_photos(tmp_path / "photos", 20)
    recipe = tfopt.Recipe(stages=(tfopt.Quantize(),))
    with pytest.raises(DataError, match=r"^The model has 4 outputs, the data has 2 classes \(dark, light\)\. "):
        tfopt.optimize(small_model(keras), recipe, tmp_path / "photos", quiet=True)
