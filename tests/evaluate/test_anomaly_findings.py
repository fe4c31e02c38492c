"""The scores of normal samples and anomalies in a report; expected values are computed by hand or in NumPy."""

import keras
import numpy as np

import tfopt
from tfopt import bridge
from tfopt.evaluate.findings.anomalies import BINS, anomaly_findings
from tfopt.evaluate.findings.collect import collect_findings
from tfopt.evaluate.page.charts.anomalies import scores as chart
from tfopt.evaluate.page.single import report_page
from tfopt.evaluate.report import Report
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.export import build_file


def test_the_threshold_comes_from_normal_validation_samples():
    scores = np.array([1.0, 2.0, 98.5, 1000.0, 50.0])
    anomalous = np.array([False, False, False, True, True])
    found = anomaly_findings(scores, anomalous, np.arange(101.0))
    assert found.threshold == 99.0  # of 101 values 0 to 100, one is above it
    assert found.false_alarms == 0.0 and found.caught == 0.5
    assert sum(found.normal) == 3 and sum(found.anomalous) == 2 and len(found.edges) == BINS + 1
    assert found.normal[0] == 1 and found.anomalous[-1] == 1
    ratios = np.divide(found.edges[1:], found.edges[:-1])
    np.testing.assert_allclose(ratios, 1000 ** (1 / BINS))


def test_scores_of_zero_alike_or_unusable():
    anomalous = np.array([False, True])
    assert np.ptp(np.diff(anomaly_findings(np.array([0.0, 4.0]), anomalous, np.ones(3)).edges)) < 1e-12
    alike = anomaly_findings(np.array([2.0, 2.0]), anomalous, np.ones(3))
    assert sum(alike.normal) == sum(alike.anomalous) == 1 and alike.caught == 1.0
    assert anomaly_findings(np.array([2.0, np.nan]), anomalous, np.ones(3)) is None
    normal = anomaly_findings(np.array([2.0, 3.0]), np.array([False, False]), np.ones(3))
    assert normal.caught is None and normal.false_alarms == 1.0
    assert "2 normal samples and 0 anomalies" in chart(normal).text


def test_a_report_has_them():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 8)).astype("float32")
    flags = (np.arange(80) % 10 == 0).astype("int32")
    data = tfopt.load_data((x, flags), task="reconstruction")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="same")])
    model.set_weights([np.eye(8, dtype="float32") * 0.5, np.zeros(8, "float32")])
    lite = build_file(model, FLOAT)
    found = collect_findings(lite, lambda: lite, bridge.to_tf_keras(model), data, logits=False)
    assert found.notes == []
    scores = found.answers[0].anomalies
    errors = np.square(data.validation.x().astype("float64") * 0.5).mean(axis=1)
    np.testing.assert_allclose(scores.threshold, np.quantile(errors, 0.99), rtol=1e-5)
    assert sum(scores.anomalous) == 8 == int(data.test.labels.sum())
    report = Report({"name": "x"}, findings=found)
    assert 'id="anomalies"' in report_page(report)
    assert Report.from_json(report.to_json()).findings.answers[0].anomalies == scores
