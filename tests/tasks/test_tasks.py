"""What tasks answer, and that no other module compares their names."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tfopt.errors import DataError
from tfopt.tasks import TASKS, Classification, Multilabel, Regression, Segmentation, task_named, task_of
from tfopt.tasks.labels import check_range, understand
from tfopt.tasks.metrics import on_each, root_mean_squared_error
from tfopt.tasks.responses import Tolerance, form_of
from tfopt.tasks.scaling import TargetScale, moments

ROOT = Path(__file__).parents[2]
TASKS_ROOM = ROOT / "tfopt" / "tasks"


def names_in(text: str, names: set[str]) -> list[int]:
    """The lines of the string literals in `text` that equal one of `names`; merely containing one does not count."""
    return [n.lineno for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and n.value in names]


def test_the_name_of_a_task_appears_only_in_its_room():
    files = [path for path in (ROOT / "tfopt").rglob("*.py") if TASKS_ROOM not in path.parents]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in names_in(path.read_text(encoding="utf-8"), set(TASKS.names))
    ]
    assert len(files) > 200
    assert not found, f"ask the Task instead (tfopt.tasks.task_of, task_named): {', '.join(found)}"


def test_a_name_of_a_task_is_found():
    text = (
        '"""For "classification"."""\nx = 1 if task == "regression" else 2\nmatch task:\n    case "multilabel": ...\n'
    )
    assert names_in(text, set(TASKS.names)) == [2, 4]


def test_the_words_in_json():
    """They stand in the reports, fingerprints and recipes of users."""
    known = ["classification", "multilabel", "regression", "segmentation", "reconstruction", "forecasting", "several"]
    assert list(TASKS.names) == known


@pytest.mark.parametrize(
    ("labels", "expected", "outputs", "groups"),
    [
        (np.array([0, 2, 1]), Classification("sparse", 3), 3, [0, 2, 1]),
        (np.eye(3)[[0, 2, 1]], Classification("one-hot", 3, (3,)), 3, [0, 2, 1]),
        (np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]]), Multilabel("values", 3, (3,)), 3, [0, 0, 0]),
        (np.array([0.5, 1.5, 2.5]), Regression("values", None), 1, [0, 0, 0]),
        (np.ones((3, 2, 4)) / 2, Regression("values", None, (2, 4)), 8, [0, 0, 0]),
        (np.arange(12).reshape(3, 2, 2) % 5, Segmentation("sparse", 5, (2, 2)), 5, [0, 0, 0]),
        (np.arange(12).reshape(3, 2, 2, 1) % 5, Segmentation("sparse", 5, (2, 2)), 5, [0, 0, 0]),
        (np.arange(12).reshape(3, 4, 1) % 5, Segmentation("sparse", 5, (4,)), 5, [0, 0, 0]),
        (np.eye(3)[np.arange(12).reshape(3, 2, 2) % 3], Segmentation("one-hot", 3, (2, 2, 3)), 3, [0, 0, 0]),
        (np.ones((3, 2, 2, 1)), Segmentation("sparse", 2, (2, 2)), 2, [0, 0, 0]),  # a mask of floats
        (np.zeros((3, 2, 2), bool), Segmentation("sparse", 2, (2, 2)), 2, [0, 0, 0]),
        (np.ones((3, 2, 2, 1)) / 2, Regression("values", None, (2, 2, 1)), 4, [0, 0, 0]),
    ],
)
def test_the_task_that_labels_ask_for(labels, expected, outputs, groups):
    parts, task, _ = understand({"train": labels}, None)
    assert task == expected
    assert task.outputs == outputs
    np.testing.assert_array_equal(task.groups(parts["train"]), groups)
    data = SimpleNamespace(task=task.kind, labels=task.labels, num_classes=task.num_classes, outputs=None)
    data.train = SimpleNamespace(labels=parts["train"], target_shape=parts["train"].shape[1:])
    assert task_of(data) == expected
    data.task = "clustering"
    with pytest.raises(DataError, match="'clustering'; expected one of classification, multilabel, regression"):
        task_of(data)


@pytest.mark.parametrize(
    ("task", "labels", "outputs", "expected"),
    [
        # -log softmax of (2, 0, 0) at class 0, and of (0, 0, 0) at class 1.
        (Classification("sparse", 3), [0, 1], [[2, 0, 0], [0, 0, 0]], (np.log(1 + 2 * np.exp(-2)) + np.log(3)) / 2),
        (Classification("one-hot", 3, (3,)), [[0, 1, 0]], [[0, 0, 0]], np.log(3)),
        (Classification("sparse", 2), [[1], [0]], [[3], [0]], (np.log1p(np.exp(-3)) + np.log(2)) / 2),
        (Multilabel("values", 2, (2,)), [[1, 0]], [[3, 0]], (np.log1p(np.exp(-3)) + np.log(2)) / 2),
        (Regression("values", None), [[1.0], [2.0]], [[3], [2]], 2.0),
    ],
)
def test_losses_of_logits_by_hand(task, labels, outputs, expected):
    outputs = np.array(outputs, "float32")
    loss = task.loss(logits=True, outputs=outputs.shape[-1])
    assert float(loss(np.array(labels, "float32"), outputs)) == pytest.approx(expected, rel=1e-6)


def test_losses_of_probabilities_by_hand():
    p = np.array([[0.5, 0.25, 0.25]], "float32")
    assert float(Classification("sparse", 3).loss(logits=False)(np.array([1]), p)) == pytest.approx(np.log(4))
    assert float(Multilabel("values", 3, (3,)).loss(logits=False)(np.array([[1.0, 0, 0]]), p)) == pytest.approx(
        (np.log(2) + 2 * np.log(4 / 3)) / 3, rel=1e-5
    )


def test_metrics_of_places_by_hand():
    """Labels 0 0 1 / 2 1 1, answers 0 1 1 / 2 2 1: intersections 1, 2, 1, unions 2, 4, 2, sums 3, 6, 3."""
    labels, answers = np.array([[[0, 0, 1]], [[2, 1, 1]]]), np.array([[[0, 1, 1]], [[2, 2, 1]]])
    for truth in (labels, labels[..., None], np.eye(4)[labels]):
        found = task_named("segmentation").metrics(np.eye(4)[answers], truth)
        expected = {"accuracy": 4 / 6, "mean_iou": 0.5, "mean_dice": (2 / 3 + 4 / 6 + 2 / 3) / 3}
        assert found == pytest.approx(expected)  # class 3 does not occur


@pytest.mark.parametrize("logits", [False, True])
def test_metrics_of_a_mask_by_hand(logits):
    """Three of four places are right; the mask has an intersection of 1, a union of 2, a sum of 3, the rest 2, 3, 5."""
    outputs = np.array([[[0.9, 0.6], [0.1, 0.2]]])[..., None] - (0.5 if logits else 0)
    for labels in (np.array([[[1, 0], [0, 0]]]), np.array([[[1.0, 0], [0, 0]]])[..., None]):
        found = task_named("segmentation").metrics(outputs, labels, logits=logits)
        expected = {"accuracy": 0.75, "mean_iou": (1 / 2 + 2 / 3) / 2, "mean_dice": (2 / 3 + 4 / 5) / 2}
        assert found == pytest.approx(expected)


def test_a_place_has_a_class_within_the_classes():
    labels = {"train": np.zeros((2, 3, 3), int), "test": np.zeros((2, 3, 3), int)}
    labels["train"][0, 0, 0], labels["test"][1, 2, 0] = 2, 200
    with pytest.raises(DataError, match=r"test labels within 0\.\.2 .* got 1 outside, .* at index 1, 2, 0: 200;"):
        understand(labels, None)


def test_metrics_of_logits():
    """Above 0 is above a probability of 0.5; the largest logit has the largest probability."""
    assert task_named("multilabel").metrics([[0.2, -0.2]], [[1, 1]], logits=True) == {"binary_accuracy": 0.5}
    assert task_named("multilabel").metrics([[0.2, -0.2]], [[1, 1]]) == {"binary_accuracy": 0.0}
    assert task_named("classification").metrics([[0.2], [-0.2]], [1, 0], logits=True) == {"accuracy": 1.0}
    assert task_named("classification").metrics([[9.0, 1.0]], [0], logits=True) == {"accuracy": 1.0}
    assert task_named("regression").metrics([0.25], [0.0], logits=True) == {"mse": 0.0625, "mae": 0.25}


PLACES = np.eye(3)[[[0, 1, 1, 2], [2, 2, 0, 1]]]


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "logits", "expected"),
    [
        ("classification", [[9.0, 1.0], [2.0, 3.0]], [0, 0], True, [1, 0]),
        ("classification", [[0.4], [0.6]], [1, 1], False, [0, 1]),
        ("segmentation", PLACES, [[0, 1, 2, 0], [2, 2, 0, 1]], False, [0.5, 1]),
        ("multilabel", [[0.2, -0.2, 3], [1, 1, 1]], [[1, 1, 1], [0, 0, 1]], True, [2 / 3, 1 / 3]),
        ("regression", [[1.0, 2], [0, 0]], [[1.5, 4], [0, -1]], False, [1.25, 0.5]),
        ("regression", [[1.0], [0]], [3, 0], False, [2, 0]),
        ("forecasting", np.ones((2, 3, 2)), np.zeros((2, 3, 2)), False, [1, 1]),
        ("reconstruction", [[[1.0], [2]], [[0], [0]]], [[[2.0], [4]], [[0], [3]]], False, [2.5, 4.5]),
    ],
)
def test_the_metric_on_each_sample_by_hand(task, outputs, labels, logits, expected):
    kind, given = task_named(task), (np.asarray(outputs), np.asarray(labels))
    np.testing.assert_allclose(kind.metric_on_each(*given, logits=logits), expected)
    assert kind.metric(*given, logits=logits) == pytest.approx(np.mean(expected))


def test_a_metric_that_is_no_mean_is_computed_sample_by_sample():
    found = on_each(root_mean_squared_error, [[3.0, 4], [0, 0]], [[0, 0], [0, 2]])
    np.testing.assert_allclose(found, [np.sqrt(12.5), np.sqrt(2)])


@pytest.mark.parametrize(
    ("values", "kind", "sums", "expected"),
    [
        ([[0.5, 0.5], [0.875, 0.125]], "classification", 0, "softmax"),
        ([[0.5, 0.5], [0.875, 0.1328125]], "classification", 0.0078125, "softmax"),  # 1/128 too much, exactly
        ([[0.5, 0.5], [0.875, 0.1328125]], "classification", 0.0078124, None),
        ([[0.5, 0.75]], "multilabel", 0, "sigmoid"),
        ([[0.25], [1.0]], "classification", 0, "sigmoid"),
        ([[0.25], [1.125]], "classification", 1, "logits"),
        ([[-0.125, 1.125]], "classification", 1, "logits"),
        ([[np.nan, 1.0]], "multilabel", 1, "logits"),
        ([[0.5, 0.5]], "regression", 0, "values"),
    ],
)
def test_the_form_of_outputs(values, kind, sums, expected):
    assert form_of(np.array(values, "float32"), task_named(kind), Tolerance(sums)) == expected


def test_outputs_may_be_outside_by_the_tolerance():
    outputs = np.array([[1.0625, -0.0625]], "float32")
    assert form_of(outputs, Classification, Tolerance(0, bounds=0.0625)) == "softmax"
    assert form_of(outputs, Classification, Tolerance(0, bounds=0.0624)) == "logits"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([1, 2, 3], r"they begin at 1: subtract 1\.$"),
        ([-1, 1], r"as 0 and 1: \(labels \+ 1\) // 2\.$"),
        ([0, 4], "number of classes"),
    ],
)
def test_what_to_do_about_class_numbers(numbers, words):
    with pytest.raises(DataError, match=words):
        check_range("train", np.array(numbers), 3 if max(numbers) > 1 else 2)


def test_moments_of_what_rounding_cannot_have_made():
    values = np.tile([0.995, 1.005], 50)[:, None]
    for kind in (np.float16, np.float32, np.float64):  # float16 has spacings of 0.0005 and 0.001 there
        mean, deviation = moments(values.astype(kind))
        assert mean == pytest.approx(1, abs=1e-3) and deviation == pytest.approx(0.005, rel=0.05)
    near = 1 + values * 2.0**-23  # a spacing of float32 is 2**-23
    assert moments(near)[1] == pytest.approx(0.005 * 2.0**-23, rel=1e-6)
    assert moments(near, np.dtype(np.float32))[1] == moments(near, np.dtype(np.float16))[1] == 1
    assert moments(near, np.dtype(np.int64))[1] == moments(near)[1]
    # Seconds of an hour in float32, 128 apart: of the size of rounding, which is 8 * 2**-23 * 1.7e9 = 1621.
    seconds = (1.7e9 + np.arange(0, 3600, 10.0)).astype(np.float32)[:, None]
    mean, deviation = moments(seconds)
    assert deviation == pytest.approx(1621.2, abs=0.1) and np.abs((seconds - mean) / deviation).max() < 1.2


def test_targets_far_from_0_are_scaled_by_their_deviation():
    """At 1e6 float32 numbers are 1/16 apart, so these are exact; targets a spacing apart count as constant."""
    offsets = np.random.default_rng(0).integers(-12, 13, (400, 1)) / 16
    scale = TargetScale.of((1e6 + offsets).astype(np.float32))
    assert scale.mean[0] == pytest.approx(1e6 + offsets.mean(), abs=1e-6)
    assert scale.deviation[0] == pytest.approx(offsets.std(), rel=1e-9)
    assert TargetScale.of((1e6 + (offsets > 0) / 16).astype(np.float32)).deviation[0] == 1
