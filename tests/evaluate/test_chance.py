"""When accuracy is that of guessing; intervals by hand from Wilson 1927."""

import numpy as np
import pytest
import scipy.stats

import tfopt
from tfopt.data import load_data, load_series
from tfopt.evaluate.chance import (
    Guess,
    at_chance,
    forgotten,
    guess_of,
    only_guesses,
    tell_of_other_classes,
    worse_than_naive,
)
from tfopt.tasks import task_of
from tfopt.tasks.metrics import guessing

LABELS = np.arange(200) % 4


def test_guessing_is_the_share_of_the_most_frequent_class():
    assert guessing([0, 0, 0, 1]) == 0.75
    assert guessing(np.eye(4, dtype="float32")[LABELS]) == 0.25
    assert guessing(LABELS) == 0.25


@pytest.mark.parametrize(
    ("before", "after", "forgotten"),
    [
        (0.9, 0.25, True),
        (0.9, 0.2, True),
        (0.9, 0.28, True),  # 0.222 to 0.346
        (0.9, 0.4, False),  # 0.335 to 0.469: bad, but more than guessing
        (0.28, 0.25, False),  # nothing was known before
        (0.33, 0.29, False),  # 0.269 to 0.398 beside 0.232 to 0.356: no sure loss
    ],
)
def test_chance(before, after, forgotten):
    assert at_chance(before, after, LABELS) is forgotten


@pytest.mark.parametrize(
    ("classes", "outputs", "reported"), [(5, 1000, True), (5, 5, False), (2, 1, False), (2, 3, True)]
)
def test_outputs_that_are_not_the_classes_are_reported(classes, outputs, reported, capsys):
    data = load_data((np.zeros((60, 3), "float32"), np.arange(60) % classes))
    tell_of_other_classes(data, np.zeros((7, outputs)), "model.tflite")
    said = capsys.readouterr().err
    assert (f"the {outputs:,} outputs of model.tflite are not the {classes} classes" in said) == reported
    assert reported or not said


def test_one_number_for_each_sample_is_one_output(capsys):
    tell_of_other_classes(load_data((np.zeros((60, 3), "float32"), np.arange(60) % 2)), np.zeros(60), "model.tflite")
    assert not capsys.readouterr().err


def test_forecasts_are_compared_with_the_naive_one():
    """Steps of 1: the naive forecast of two steps is wrong by 1 and 2."""
    data = load_series(np.arange(100.0), window=4, horizon=2)
    assert worse_than_naive(data, data.test.y() + 1.625) == ("mae", 1.625, 1.5)
    assert worse_than_naive(data, (data.test.y() - 1.5)[..., None]) is None
    x, y = data.train.x(), data.train.y()
    windows = load_data((x, y), task="forecasting")  # nobody says which column is forecast
    assert worse_than_naive(windows, windows.test.y() + 9) is None


def two_classes(rare=20, count=200):
    labels = (np.arange(count) < rare).astype("int64")
    return labels, task_of(tfopt.load_data(((np.zeros((count, 1), "float32"), labels),) * 3))


def test_a_model_that_finds_a_rare_class_does_not_guess():
    """Right as often as always answering the frequent class, 0.9: for 18 of 20 and 162 of 180."""
    labels, task = two_classes()
    chosen = np.where(np.arange(200) % 10 == 9, 1 - labels, labels)
    assert (chosen == labels).mean() == 0.9 and only_guesses(task, labels, np.eye(2)[chosen], logits=False) is None
    frequent = np.eye(2)[np.zeros(200, int)]
    assert only_guesses(task, labels, frequent, logits=False) == Guess("accuracy", 0.9, 0.9, True)
    by_chance = np.where(np.arange(200) % 10 == 9, 1, 0)  # 2 of 20, 18 of 180
    made = only_guesses(task, labels, np.eye(2)[by_chance], logits=False)
    assert made == Guess("accuracy", pytest.approx(164 / 200), 0.9, True)
    assert only_guesses(task, labels, np.where(labels, np.nan, frequent[:, 0])[:, None], logits=False) is None


def test_places_and_several_labels_that_are_always_the_usual_ones():
    masks = np.zeros((40, 4, 4), "int64")
    masks[:, 0, 0] = 1
    images = np.zeros((40, 4, 4, 1), "float32")
    task = task_of(tfopt.load_data(((images, masks),) * 3, task="segmentation"))
    ground = np.eye(2)[np.zeros_like(masks)]
    assert only_guesses(task, masks, ground, logits=False) == Guess("balanced accuracy", 0.5, 0.5, True)
    assert only_guesses(task, masks, np.eye(2)[masks], logits=False) is None
    labels = (np.arange(120).reshape(40, 3) % 8 == 0).astype("int32")
    task = task_of(tfopt.load_data(((np.zeros((40, 1), "float32"), labels),) * 3))
    half = pytest.approx(0.5)
    assert only_guesses(task, labels, np.zeros((40, 3)), logits=False) == Guess("balanced accuracy", half, half, True)
    assert only_guesses(task, labels, labels * 1.0, logits=False) is None


def test_labels_that_are_all_the_same_tell_nothing():
    """A perfect model has the balanced accuracy 1 there, and so has a guess."""
    labels = np.tile([[1, 0, 1]], (50, 1))
    task = task_of(tfopt.load_data(((np.zeros((50, 1), "float32"), labels),) * 3))
    assert guess_of(task, labels, labels * 1.0, logits=False) == Guess("balanced accuracy", 1.0, 1.0, None)
    masks = np.zeros((40, 4, 4), "int64")
    task = task_of(tfopt.load_data(((np.zeros((40, 4, 4, 1), "float32"), masks),) * 3, task="segmentation"))
    assert only_guesses(task, masks, np.eye(2)[masks], logits=False) is None
    assert guess_of(task, masks, np.full((40, 4, 4, 2), np.nan), logits=False) is None


def test_a_mask_that_is_right_by_its_place_alone_is_no_guess():
    masks = np.zeros((40, 4, 4), "int64")
    masks[:, 1:3, 1:3] = 1
    task = task_of(tfopt.load_data(((np.zeros((40, 4, 4, 1), "float32"), masks),) * 3, task="segmentation"))
    assert guess_of(task, masks, np.eye(2)[masks], logits=False).sure is False


def found_rare():
    """Accuracy 0.88, below the 0.9 of always answering the frequent class: 36 of 40, and 316 of 360."""
    labels, task = two_classes(40, 400)
    chosen = labels.copy()
    chosen[:4], chosen[40:84] = 0, 1
    assert (chosen == labels).mean() == 0.88
    return labels, task, np.eye(2)[chosen]


def test_a_file_that_was_trained_to_find_a_rare_class_has_not_forgotten_its_classes():
    labels, task, outputs = found_rare()
    assert at_chance(0.96, 0.88, labels)  # by its accuracy alone
    assert forgotten(task, labels, outputs, 0.96, logits=False) is None
    swapped = np.roll(outputs, 200, axis=0)  # the same answers to other samples
    assert forgotten(task, labels, swapped, 0.96, logits=False).sure
    assert forgotten(task, labels, swapped, 0.9, logits=False) is None  # the model did not know more


def test_a_model_without_a_number_did_not_guess():
    labels, task = two_classes()
    frequent, right = np.eye(2)[np.zeros(200, int)], np.eye(2)[labels]
    assert forgotten(task, labels, frequent, None, logits=False) == Guess("accuracy", 0.9, 0.9, True)
    assert forgotten(task, labels, right, None, logits=False) is None


def test_few_samples_that_swap_no_answers_are_told_apart():
    """4 of 4 and 7 of 8: 5 of 495 orders of the answers (Fisher's exact test), where the accuracy says too little."""
    labels, task = two_classes(4, 12)
    outputs = np.eye(2)[np.append([1] * 5, [0] * 7)]
    assert scipy.stats.binom.sf(10, 12, 8 / 12) > 0.05 > 5 / 495
    assert guess_of(task, labels, outputs, logits=False) == Guess("accuracy", pytest.approx(11 / 12), 8 / 12, False)


def test_what_may_be_more_than_a_guess_is_unsure():
    labels, task = two_classes(4, 8)
    five = np.eye(2)[[1, 1, 1, 0, 1, 1, 0, 0]]
    assert guess_of(task, labels, five, logits=False) == Guess("accuracy", 5 / 8, 0.5, None)
    assert forgotten(task, labels, five, None, logits=False) is None
    labels = np.array([[0, 0], [0, 1], [1, 1]])  # all right, as by one of six orders
    task = task_of(tfopt.load_data(((np.zeros((3, 1), "float32"), labels),) * 3))
    assert guess_of(task, labels, labels * 1.0, logits=False) == Guess("balanced accuracy", 1.0, 0.5, None)
    assert guess_of(task, labels, labels * 0.0, logits=False) == Guess("balanced accuracy", 0.5, 0.5, True)
