"""What a report says about a file: expected values are counted by hand or computed in NumPy."""

import base64
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image

import tfopt
from tfopt import bridge
from tfopt.evaluate.findings import collect
from tfopt.evaluate.findings.classes import calibration, class_findings, probabilities
from tfopt.evaluate.findings.collect import collect_findings
from tfopt.evaluate.findings.layers import histograms, layer_findings, low_signals
from tfopt.evaluate.findings.samples import are_pictures, thumbnail, worst_samples
from tfopt.evaluate.findings.types import LayerFinding
from tfopt.evaluate.page.single import report_page
from tfopt.evaluate.report import Report
from tfopt.tasks import Reconstruction, task_of
from tfopt.tflite.settings import FLOAT, Export
from tfopt.tflite.write.export import build_file

# Four samples of three classes; the second and the last are wrong.
SCORES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.5, 0.25], [0.05, 0.05, 0.9]], "float32")
LABELS = np.array([0, 0, 1, 1])


def some_data(x=None, labels=LABELS, names=None):
    x = np.zeros((len(labels), 8, 8, 3), "uint8") if x is None else x
    return tfopt.load_data(((x, labels), (x, labels), (x, labels)))


def task(labels=LABELS):
    return task_of(some_data(labels=labels))


def test_answers_are_counted_by_class():
    found = class_findings(SCORES, LABELS, task(), ["a", "b"], logits=False)
    assert found.names == ["a", "b", "2"] and found.unit == "samples"
    assert found.support == [2, 2, 0] and found.predicted == [1, 2, 1] and found.right == [1, 1, 0]
    assert sorted(found.wrong) == [(0, 1, 1), (1, 2, 1)]


def test_one_hot_labels_and_one_output():
    one_hot = np.eye(3, dtype="float32")[LABELS]
    assert class_findings(SCORES, one_hot, task(), None, logits=False).right == [1, 1, 0]
    single = np.array([[2.0], [-1.0], [3.0], [-2.0]], "float32")  # logits: 1, 0, 1, 0
    found = class_findings(single, np.array([1, 1, 1, 0]), task(), None, logits=True)
    assert found.support == [1, 3] and found.right == [1, 2] and found.wrong == [(1, 0, 1)]


def test_the_most_frequent_errors_are_kept(monkeypatch):
    monkeypatch.setattr("tfopt.evaluate.findings.classes.MOST_PAIRS", 1)
    outputs = np.eye(3, dtype="float32")[[1, 1, 2, 2, 0]]
    found = class_findings(outputs, np.array([0, 0, 0, 2, 0]), task(), None, logits=False)
    assert found.wrong == [(0, 1, 2)] and found.right == [1, 0, 1]


def test_calibration_by_hand():
    """Bins of a fifteenth: 0.5 is in bin 7, 0.7 in 10, 0.8 in 12, 0.9 in 13."""
    found = calibration(SCORES, LABELS, logits=False)
    assert {at: count for at, count in enumerate(found.count) if count} == {7: 1, 10: 1, 12: 1, 13: 1}
    assert found.accuracy[7] == 1 and found.accuracy[12] == 0 and found.accuracy[0] is None
    assert found.confidence[10] == pytest.approx(0.7)
    assert found.error == pytest.approx((0.5 + 0.3 + 0.8 + 0.9) / 4)


def test_a_certain_answer_is_in_the_last_bin():
    assert calibration(np.array([[1.0, 0.0]]), np.array([0]), logits=False).count[-1] == 1


def test_probabilities_of_logits():
    np.testing.assert_allclose(probabilities(np.array([[0.0, np.log(3.0)]]), logits=True), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(np.array([[np.log(3.0)]]), logits=True), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(np.array([[0.9]]), logits=False), [[0.1, 0.9]])
    assert np.isfinite(probabilities(np.array([[1000.0, -1000.0]]), logits=True)).all()


def test_the_worst_samples_come_first():
    inputs = np.arange(4, dtype="uint8")[:, None, None, None] * np.ones((1, 8, 8, 3), "uint8") * 85
    found, scored = worst_samples(np.array([10, 11, 12, 13]), inputs, SCORES, LABELS, task(), None, logits=False)
    assert [each.number for each in found] == [13, 11, 12, 10]
    assert [each.score for each in found] == pytest.approx([0.05, 0.1, 0.5, 0.7], abs=1e-4)
    assert (found[0].label, found[0].predicted) == ("1", "2")
    assert "probability" in scored
    pixels = opened(found[0].image)
    assert pixels.shape == (8, 8, 3) and (pixels == 255).all()


def test_normal_samples_with_the_largest_errors_and_anomalies_with_the_smallest(monkeypatch):
    """Errors 0 to 5; 3 to 5 are anomalies, of which the one that the model gives back best is the worst answer."""
    monkeypatch.setattr("tfopt.evaluate.findings.samples.MOST", 4)
    pixels = np.zeros((6, 4, 4, 1), "float32")
    anomalous = np.arange(6) > 2
    outputs = pixels + np.sqrt(np.arange(6, dtype="float32"))[:, None, None, None]
    found, scored = worst_samples(
        np.arange(6), pixels, outputs, pixels, Reconstruction("values", None), None, logits=False, anomalous=anomalous
    )
    assert [(each.number, each.label, each.score) for each in found] == [
        *((2, "normal", 2.0), (1, "normal", 1.0)),
        *((3, "anomaly", 3.0), (4, "anomaly", 4.0)),
    ]
    assert scored == "MSE"


def opened(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))))


def test_values_are_wrong_by_their_error():
    inputs, values = np.zeros((3, 8, 8, 1), "uint8"), np.array([1.0, 2.0, 3.0], "float32")
    data = some_data(inputs, values)
    found, scored = worst_samples(
        np.arange(3), inputs, np.array([[1.0], [5.0], [2.5]]), values, task_of(data), None, logits=False
    )
    assert [each.number for each in found] == [1, 2, 0] and scored == "MAE"
    assert (found[0].label, found[0].predicted) == ("2", "5")


def test_a_score_without_a_number_is_none():
    inputs, values = np.zeros((2, 8, 8, 1), "uint8"), np.array([1.0, 2.0], "float32")
    outputs, how = np.array([[np.inf], [2.5]]), task_of(some_data(inputs, values))
    found, _ = worst_samples(np.arange(2), inputs, outputs, values, how, None, logits=False)
    assert {each.number: each.score for each in found} == {0: None, 1: 0.5}


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((2, 8, 8, 3), "uint8", True),
        ((2, 8, 8, 1), "float32", True),
        ((2, 8, 8, 4), "uint8", False),
        ((2, 8), "uint8", False),
    ],
)
def test_what_is_a_picture(shape, dtype, expected):
    assert are_pictures(np.zeros(shape, dtype)) is expected


def test_a_large_photo_becomes_a_small_thumbnail():
    photo = np.random.default_rng(0).integers(0, 256, (300, 200, 3), "uint8")
    uri = thumbnail(photo, 0, 255)
    assert opened(uri).shape == (96, 64, 3) and len(uri) < 10_000


def small(last, outputs, shape=(8, 8, 3), name="head"):
    layers = keras.layers
    stem = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")
    head = layers.Dense(outputs, activation=last, name=name)
    return keras.Sequential([keras.Input(shape), stem, layers.GlobalAveragePooling2D(), head])


def test_layers_and_weights_of_a_file():
    model = small("softmax", 3)
    kernel = np.zeros((3, 3, 3, 4), "float32")
    kernel[0, 0] = np.arange(1, 13, dtype="float32").reshape(3, 4)
    model.get_layer("stem").set_weights([kernel, np.zeros(4, "float32")])
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype("float32")
    first, lite = build_file(model, FLOAT), build_file(model, Export(), x)
    stem, *_, head = (each for each in layer_findings(lite, []) if each.parameters)
    assert (stem.layer, stem.operator, stem.weights, stem.computes) == ("stem", "CONV_2D", "int8", "int8")
    assert stem.parameters == 3 * 3 * 3 * 4 + 4 and stem.sparsity == pytest.approx(96 / 108, abs=1e-4)
    assert head.layer == "head" and head.parameters == 4 * 3  # biases of 0 are left out
    found = {each.layer: each for each in histograms(first, lite)}
    assert found.keys() == {"stem", "head"}
    assert sum(found["stem"].before) == sum(found["stem"].after) == 108
    assert found["stem"].high == pytest.approx(12, abs=0.1) and found["stem"].unique[0] == 13
    zero = int((0 - found["stem"].low) / (found["stem"].high - found["stem"].low) * len(found["stem"].after))
    assert found["stem"].after[zero] == 96


def page_of(found):
    """The parts of the page of a report with these findings."""
    return set(re.findall(r'<section id="(\w+)"', report_page(Report({"name": "x"}, findings=found))))


LABELS_OF = {
    "classification": (np.arange(60) % 3, "softmax", 3),
    "logits": (np.arange(60) % 3, None, 3),
    "multilabel": (np.random.default_rng(0).integers(0, 2, (60, 3)).astype("float32"), "sigmoid", 3),
    "regression": (np.linspace(-1, 1, 60, dtype="float32"), None, 1),
}


@pytest.mark.parametrize("kind", LABELS_OF)
def test_every_task_has_findings(kind):
    labels, last, outputs = LABELS_OF[kind]
    x = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3)).astype("uint8")
    data, model = some_data(x, labels), small(last, outputs)
    lite = build_file(model, Export(io="float32"), data)
    found = collect_findings(
        lite, lambda: build_file(model, FLOAT), bridge.to_tf_keras(model), data, logits=kind == "logits"
    )
    assert found.notes == []
    (answers,) = found.answers
    assert found.samples == 60 and found.layers and found.histograms and len(answers.worst) == 24
    assert any(layer.sqnr is not None and layer.sqnr > 10 for layer in found.layers)
    by_class = kind in ("classification", "logits")
    assert (answers.classes is not None) == (answers.calibration is not None) == by_class
    parts = page_of(found)
    assert ("layers" in parts, "samples" in parts, "classes" in parts) == (True, True, by_class)
    assert any("uint8" in line or "float32" in line for line in found.fed) and found.versions["tfopt"] == "0.2.0"


def test_masks_are_counted_by_place():
    x = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3)).astype("uint8")
    masks = (x[..., 0] > 127).astype("int32")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1, activation="softmax", name="map")])
    data = some_data(x, masks)
    found = collect_findings(
        build_file(model, FLOAT), lambda: build_file(model, FLOAT), bridge.to_tf_keras(model), data, logits=False
    )
    (answers,) = found.answers
    assert found.notes == [] and answers.classes.unit == "places"
    assert sum(answers.classes.support) == masks.size and answers.classes.support[1] == masks.sum()
    assert answers.worst[0].label == "" and answers.scored
    assert {"classes", "calibration", "samples"} <= page_of(found)


def test_a_part_that_fails_is_a_note(monkeypatch):
    def broken(*_, **__):
        raise ValueError("no such thing")

    monkeypatch.setattr(collect, "layer_findings", broken)
    model, data = small("softmax", 3), some_data(np.zeros((30, 8, 8, 3), "uint8"), np.arange(30) % 3)
    found = collect_findings(
        build_file(model, FLOAT), lambda: build_file(model, FLOAT), bridge.to_tf_keras(model), data, logits=False
    )
    assert found.notes == ["the report has no layers: ValueError: no such thing"] and found.answers[0].classes


def test_each_of_several_outputs_has_its_answers():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    outputs = {"kind": keras.layers.Dense(3, activation="softmax", name="kind")(x),
               "size": keras.layers.Dense(1, name="size")(x)}  # fmt: skip
    model = keras.Model(inputs, outputs)
    images = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3)).astype("uint8")
    labels = {"kind": np.arange(60) % 3, "size": np.linspace(0, 1, 60, dtype="float32")}
    data = tfopt.load_data(((images, labels), (images, labels), (images, labels)))
    lite = build_file(model, FLOAT)
    found = collect_findings(lite, lambda: lite, bridge.to_tf_keras(model), data, logits={"kind": False, "size": False})
    assert found.notes == []
    kind, size = found.answers
    assert (kind.output, size.output) == ("kind", "size")
    assert sum(kind.classes.support) == 60 and size.classes is None
    assert len(kind.worst) == len(size.worst) == 24 and size.scored == "MAE"
    assert "samples" in page_of(found)


def test_large_answers_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(collect, "MOST_VALUES", 30)
    model, data = small("softmax", 3), some_data(np.zeros((60, 8, 8, 3), "uint8"), np.arange(60) % 3)
    lite = build_file(model, FLOAT)
    found = collect_findings(lite, lambda: lite, bridge.to_tf_keras(model), data, logits=False)
    assert found.samples == 10 and sum(found.answers[0].classes.support) == 10
    assert max(each.number for each in found.answers[0].worst) >= 54  # one of the last tenth


def test_noise_is_said_with_the_worst_operator():
    def layer(name, sqnr):
        about = {"shape": "4", "parameters": 0, "bytes": 0, "sparsity": None, "unique": None, "weights": ""}
        return LayerFinding(layer=name, operator="ADD", computes="int8", sqnr=sqnr, **about)

    assert low_signals([layer("a", 10.0), layer("b", None)]) == []
    (note,) = low_signals([layer("a", 9.0), layer("b", -2.0), layer("c", 40.0), layer("d", None)])
    assert note.startswith("2 of 3 operators") and "below 10 dB; the worst is ADD of b with -2.0 dB" in note
