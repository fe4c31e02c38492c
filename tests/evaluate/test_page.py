"""The pages as files: self-contained, complete, escaped, and right in their numbers."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from tfopt.errors import OutputError
from tfopt.evaluate.findings.types import Answers, Classes
from tfopt.evaluate.page import measures
from tfopt.evaluate.page.charts.tradeoff import Point, _merged, front
from tfopt.evaluate.page.charts.training import curves, names_of_curves
from tfopt.evaluate.page.classes import class_rows, confusions, distinct_names, most_confused
from tfopt.evaluate.page.comparison import Candidate, Setting, comparison_page
from tfopt.evaluate.page.recipe import settings_of
from tfopt.evaluate.page.single import report_page, tiles, verdict
from tfopt.evaluate.report import Report


class Elements(HTMLParser):
    """The elements of a page, its visible text, and the contents of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self.scripts, self._in = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        {"script": self.scripts}.get(self._in, self.text).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.found if "id" in attrs]


def test_a_page_needs_no_other_file_and_no_network(full_report):
    page = report_page(full_report())
    elements = Elements(page)
    assert len(page) < 5_000_000
    assert {name for name, _ in elements.found} & {"link", "iframe", "object", "embed", "base"} == set()
    for _, attrs in elements.found:
        assert "src" not in attrs or attrs["src"].startswith("data:image/")
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("href", "#").startswith("#")
    (policy,) = (meta["content"] for meta in elements.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:") and "unsafe-eval" not in policy
    assert re.search(r"script-src ('sha256-[\w+/=]+' ?){2};", policy)


def test_names_are_text_and_nothing_else(full_report):
    """Three scripts are ours: the data, the library and the page's own; no name makes a fourth, or an element."""
    plain, evil = Elements(report_page(full_report("plain"))), Elements(report_page(full_report()))
    assert [tag for tag, _ in evil.found] == [tag for tag, _ in plain.found]
    assert len(evil.all("script")) == 3
    assert "49" not in {text.strip() for text in evil.text}  # {{7*7}}
    specs = json.loads(evil.scripts[0])
    assert "</script><script>" in json.dumps(specs)


def test_every_part_is_there(full_report):
    ids = Elements(report_page(full_report())).ids
    parts = ["summary", "steps", "training", "layers", "weights", "classes", "calibration", "samples", "recipe"]
    assert [each for each in ids if each in parts] == parts
    assert len(ids) == len(set(ids))


def test_parts_that_make_no_sense_are_absent(full_report):
    report = full_report()
    bare = Report(report.recipe, report.rows[:1])
    elements = Elements(report_page(bare))
    assert {"summary", "steps", "recipe"} <= set(elements.ids)
    assert not {"training", "layers", "weights", "classes", "calibration", "samples"} & set(elements.ids)
    links = [attrs["href"] for attrs in elements.all("a")]
    assert all(link.removeprefix("#") in elements.ids for link in links)
    assert "summary" in Elements(report_page(Report({}))).ids


def test_a_report_json_makes_the_same_page(full_report):
    report = full_report()
    assert report_page(Report.from_json(report.to_json())) == report_page(report)


@pytest.mark.parametrize("parts", [{}, {"classes": None}], ids=["classes", "values"])
def test_a_score_without_a_number_is_a_dash(full_report, parts):
    report = full_report()
    (answers,) = report.findings.answers
    worst = [dataclasses.replace(answers.worst[0], score=None)]
    findings = dataclasses.replace(report.findings, answers=[dataclasses.replace(answers, worst=worst, **parts)])
    report = dataclasses.replace(report, findings=findings)
    assert "<span>-</span> <span>no. 7</span>" in report_page(report)
    assert report_page(Report.from_json(report.to_json())) == report_page(report)


@pytest.mark.parametrize(
    ("ok", "text", "tone", "word"),
    [(True, "", "good", "Passed"), (False, "Prune ended the run", "bad", "Failed"), (True, "too few", "", "Uncertain")],
)
def test_verdict(full_report, ok, text, tone, word):
    found = verdict(full_report(ok=ok, verdict=text))
    assert (found.tone, found.word, found.text) == (tone, word, text)
    expected = "Accuracy 89.50% (-0.50 points), 10,000 bytes (4x smaller), 1.5x faster"
    assert found.headline == expected.replace("(-", f"({measures.MINUS}").replace("x ", f"{measures.TIMES} ")


def test_tiles_say_what_changed_and_whether_that_is_good(full_report):
    found = {tile.name: tile for tile in tiles(full_report().rows)}
    assert found["Accuracy"].value == "89.50%" and found["Accuracy"].tone == "bad"
    assert found["Size, bytes"].before == "40,000" and found["Size, bytes"].tone == "good"
    assert found["Latency, ms"].change == f"1.5{measures.TIMES} faster" and found["Latency, ms"].tone == "good"
    assert found["Multiplications"].change == "unchanged" and found["Multiplications"].tone == ""


def test_errors_are_better_if_smaller(full_report):
    rows = [dataclasses.replace(row, metrics={"mae": value}) for row, value in
            zip(full_report().rows, (0.5, 0.4, 0.4), strict=True)]  # fmt: skip
    (metric,) = measures.metrics_of(rows[0])
    assert (metric.text(rows[1]), metric.tone(rows[1], rows[0]), metric.percent) == ("0.4", "good", False)
    assert metric.change(rows[1], rows[0]) == "\N{MINUS SIGN}0.1000"


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (2.0, "2x smaller"),
        (0.5, "2x larger"),
        (1, "unchanged"),
        (1.004, "0.40% smaller"),
        (0.9999999, "<0.01% larger"),
        (2304.4, "2,304x smaller"),
        (1.234, "1.23x smaller"),
    ],
)
def test_factors_in_words(factor, expected):
    assert measures.in_times(factor, ("smaller", "larger")) == expected.replace("x", "\N{MULTIPLICATION SIGN}")


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(0.0, "unchanged"), (0.004, "+<0.01 points"), (-0.005, "-0.01 points"), (1.0, "+1.00 points")],
)
def test_a_difference_is_never_called_unchanged(difference, expected):
    assert measures.signed(difference, 2, " points") == expected.replace("-", measures.MINUS)


def test_speeds_that_times_cannot_tell_apart(full_report):
    row = full_report().rows[-1]
    assert measures.speed(dataclasses.replace(row, speedup=1.004)) == "as fast"
    assert measures.speed(dataclasses.replace(row, speedup=0.5)) == f"2{measures.TIMES} slower"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rmse", "RMSE"),
        ("mean_iou", "Mean IoU"),
        ("mean_dice", "Mean Dice"),
        ("age_mae", "Age MAE"),
        ("accuracy", "Accuracy"),
        ("f1", "F1"),
    ],
)
def test_headings_of_metrics(name, expected):
    assert measures.heading(name) == expected


def test_only_what_is_in_float_is_listed_as_such(full_report):
    report = full_report("plain")
    slow = "the file runs at 0.5x the speed of the original float32 file on this machine"
    report.rows[-1].notes.extend([slow, "integer weights, but computed in float: SIN"])
    listed = report_page(report).partition("In float, and why")[2].partition("</ul>")[0]
    assert "left in float" in listed and "computed in float" in listed and "speed" not in listed


def test_curves_of_all_stages_count_on(full_report):
    rows = full_report("plain").rows
    assert names_of_curves(rows) == ["accuracy", "loss"]
    chart = curves(rows, "loss", percent=False)
    stages, lines, kept = (chart.spec["layer"][at]["data"]["values"] for at in (1, 2, 3))
    assert [stage["epoch"] for stage in stages] == [0.5, 3.5]
    assert [point["epoch"] for point in lines if point["part"] == "training"] == [1, 2, 3, 4, 5, 6]
    assert [point["value"] for point in lines][2] is None  # NaN
    assert [(point["epoch"], point["value"]) for point in kept] == [(2, 0.6)]
    assert chart.text.endswith("Prune: epoch 2 kept; exported int8: the weights from before the training kept")


def test_the_front_has_what_nothing_beats():
    points = [Point("a", 10, 0.9), Point("b", 20, 0.9), Point("c", 5, 0.5), Point("d", 30, 0.95), Point("e", 30, 0.94)]
    found = front(points, smaller_is_better=False)
    assert [point.name for point in sorted(found, key=lambda point: point.place) if point.strong] == ["c", "a", "d"]
    twice = front([Point("a", 1, 0.9), Point("b", 1, 0.9), Point("c", 2, 0.95)], smaller_is_better=False)
    assert [(point.name, point.place) for point in _merged(twice)] == [("a, b", 0), ("c", 1)]
    errors = front([Point("a", 1, 0.3), Point("b", 2, 0.1), Point("c", 3, 0.2)], smaller_is_better=True)
    assert [point.place for point in errors] == [0, 1, -1]


def test_recall_precision_and_errors_of_classes(full_report):
    classes = full_report("cat").findings.answers[0].classes
    rows = class_rows(classes)
    assert [(row.name, row.recall) for row in rows] == [("cat", 0.75), ("dog (1)", 0.9), ("dog (2)", 0.9)]
    assert rows[1].precision == 0.75 and rows[0].support == 20
    worst = confusions(classes, 1)
    assert [(each.label, each.answer, each.count, each.share) for each in worst] == [("cat", "dog (1)", 3, 0.15)]
    assert most_confused(classes, 2) == [0, 1]
    assert most_confused(dataclasses.replace(classes, wrong=[]), 2) == [0, 1]
    assert distinct_names(["a", "b", "a"]) == ["a (0)", "b", "a (2)"]


def test_a_class_without_labels_has_no_recall():
    classes = Classes(names=["a", "b"], unit="samples", support=[3, 0], predicted=[3, 0], right=[3, 0], wrong=[])
    assert [row.name for row in class_rows(classes)] == ["a"]


def test_many_classes_show_the_worst(full_report):
    number = 500
    classes = Classes(
        names=[f"class {at}" for at in range(number)], unit="samples", support=[2] * number, predicted=[2] * number,
        right=[1] * number, wrong=[(at, (at + 1) % number, 1) for at in range(number)],
    )  # fmt: skip
    report = full_report("plain")
    page = report_page(
        dataclasses.replace(
            report, findings=dataclasses.replace(report.findings, answers=[Answers(output="a", classes=classes)])
        )
    )
    cells = max(
        (spec["spec"]["data"]["values"] for spec in json.loads(Elements(page).scripts[0]) if "data" in spec["spec"]),
        key=len,
    )
    assert len(cells) == 50 * 50 and len(page) < 5_000_000


def test_each_output_has_its_answers(full_report):
    report = full_report("plain")
    (one,) = report.findings.answers
    both = [
        dataclasses.replace(one, output="<left>"),
        Answers(output="right"),
        dataclasses.replace(one, output="third"),
    ]
    page = report_page(dataclasses.replace(report, findings=dataclasses.replace(report.findings, answers=both)))
    elements = Elements(page)
    assert len(elements.ids) == len(set(elements.ids))
    assert page.count("<h3>Output &lt;left&gt;</h3>") == page.count("<h3>Output third</h3>") == 3
    assert "Output right" not in page


def test_metrics_of_several_outputs(full_report):
    row = dataclasses.replace(full_report().rows[0], metrics={"head_accuracy": 0.5, "box_mae": 2.0, "auc": 0.9})
    share, error, area = measures.metrics_of(row)
    assert (share.text(row), share.smaller_is_better) == ("50.00%", False)
    assert (error.text(row), error.smaller_is_better) == ("2", True)
    assert (area.text(row), area.smaller_is_better) == ("0.9", None)


def test_settings_are_flat():
    recipe = {
        "name": "x",
        "stages": [{"stage": "Prune", "layers": [], "block_size": [1, 1]}],
        "a": {"b": None, "c": True},
    }
    stage = {"stages.0.stage": "Prune", "stages.0.layers": "[]", "stages.0.block_size": "[1, 1]"}
    assert settings_of(recipe) == {"name": "x", **stage, "a.b": "-", "a.c": "yes"}


@pytest.mark.parametrize(("name", "tone"), [("rmse", "bad"), ("mape", ""), ("accuracy", "good"), ("auc", "")])
def test_of_a_metric_of_the_recipe_nobody_knows_which_way_is_better(full_report, name, tone):
    rows = [dataclasses.replace(row, metrics={name: value}) for row, value in
            zip(full_report().rows, (0.5, 0.6, 0.7), strict=True)]  # fmt: skip
    (metric,) = measures.metrics_of(rows[0])
    assert metric.tone(rows[1], rows[0]) == tone


def test_a_comparison(full_report):
    first, second = full_report("plain"), full_report("plain")
    second = dataclasses.replace(second, recipe={**second.recipe, "training": {"seed": 4}}, rows=second.rows[:2])
    elements = Elements(comparison_page([Candidate("one", first, "one/report.html"), Candidate("<b>two", second)]))
    text = " ".join(elements.text)
    assert "<b>two" in text and "+0" not in text and "\N{MINUS SIGN}0.50 points" in text
    assert [attrs["href"] for attrs in elements.all("a") if not attrs["href"].startswith("#")] == ["one/report.html"]
    differing = [attrs for attrs in elements.all("tr") if attrs.get("class") == "different"]
    assert len(differing) == 1


def test_latencies_of_different_runs_have_no_ratio(full_report):
    first = full_report("plain")
    slow = [dataclasses.replace(row, latency_ms=2 * row.latency_ms) for row in first.rows]
    pair = [Candidate("one", first), Candidate("two", dataclasses.replace(first, rows=slow))]
    page = comparison_page(pair)
    assert "slower" not in page.split("</table>")[0]
    assert "tfopt bench" in page


def test_of_a_stage_that_one_recipe_lacks_the_name_differs():
    rows = {"stages.1.stage": True, "stages.1.epochs": False, "distillation.alpha": True}
    assert {place: Setting(place, ("2", "")).differs for place in rows} == rows
    assert Setting("stages.1.epochs", ("2", "3")).differs


def test_a_missing_library_says_what_to_install(full_report, monkeypatch):
    from tfopt.evaluate.page import render

    monkeypatch.setattr(render, "_BUNDLE", "import no_such_library")
    render._vega.cache_clear()
    with pytest.raises(OutputError, match=r"no_such_library.*Install vl-convert-python"):
        report_page(full_report())
    render._vega.cache_clear()
