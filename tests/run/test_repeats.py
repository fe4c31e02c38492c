"""Mean and spread over seeds, by hand."""

import pytest

from tfopt.evaluate.report import Report, Row
from tfopt.run.repeats import spread, table


def report(*steps):
    rows = [
        Row(step=step, metrics={"accuracy": value}, bytes=size, parameters=1, nonzero_parameters=1, deflated_bytes=1,
            max_unique_weights=1, latency_ms=None, seconds=0.0)
        for step, value, size in steps
    ]  # fmt: skip
    return Report({}, rows)


def test_mean_and_sample_deviation_of_the_steps_that_all_runs_have():
    first = report(("original", 0.9, 100), ("Prune", 0.8, 100), ("exported int8", 0.7, 40))
    second = report(("original", 0.9, 100), ("Prune (not kept)", 0.1, 100), ("exported int8", 0.8, 44))
    original, exported = spread([first, second])
    assert (original["step"], exported["step"]) == ("original", "exported int8")
    assert original["deviation"] == {"accuracy": 0.0, "bytes": 0.0} and original["runs"] == 2
    assert exported["mean"] == pytest.approx({"accuracy": 0.75, "bytes": 42})
    assert exported["deviation"] == pytest.approx({"accuracy": (2 * 0.05**2) ** 0.5, "bytes": 8**0.5})
    twice = report(("FineTune", 0.5, 1), ("FineTune", 0.8, 1))
    assert [step["mean"]["accuracy"] for step in spread([twice])] == [0.5, 0.8]
    assert spread([first])[2]["deviation"]["accuracy"] == 0.0


def test_a_metric_that_one_run_lacks_has_no_mean():
    (step,) = spread([report(("original", 0.9, 100)), report(("original", float("nan"), 100))])
    assert step["mean"] == {"accuracy": None, "bytes": 100} and step["deviation"] == {"accuracy": None, "bytes": 0}
    assert list(table([step], "mine").columns[1].cells) == ["-"]
