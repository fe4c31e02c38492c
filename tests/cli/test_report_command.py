"""`tfopt report`: one page for a result, one for several; no TensorFlow."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfopt import cli
from tfopt.evaluate.report import Report, Row


def tfopt_command(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def row(size, **metrics):
    return Row(
        step="exported int8", metrics=metrics or {"accuracy": 0.9}, parameters=9, nonzero_parameters=5,
        max_unique_weights=3, bytes=size, deflated_bytes=size // 2, latency_ms=0.1, seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, size in (("small", 100), ("large", 300), ("a & <b>", 200)):
        report = Report({"name": name, "stages": []}, [dataclasses.replace(row(400), step="original"), row(size)])
        Path("results", name).mkdir(parents=True)
        Path("results", name, "report.json").write_text(report.to_json())
    return Path("results")


def test_one_result_gets_its_page_again(results):
    done = tfopt_command("report", results / "small")
    assert done.exit_code == 0, done.output
    page = (results / "small" / "report.html").read_text(encoding="utf-8")
    assert "<title>small: tfopt report</title>" in page
    assert tfopt_command("report", results / "small", "--out", "page.html").stdout == "wrote page.html\n"
    assert Path("page.html").read_text(encoding="utf-8") == page


def test_several_results_are_compared(results):
    assert tfopt_command("report", results / "a & <b>").exit_code == 0
    done = tfopt_command("report", *sorted(results.iterdir()), "--out", "pages/all.html")
    assert done.exit_code == 0 and done.stdout == "wrote pages/all.html\n", done.output
    page = Path("pages/all.html").read_text(encoding="utf-8")
    assert '<a href="../results/a%20%26%20%3Cb%3E/report.html">a &amp; &lt;b&gt;</a>' in page
    assert "large/report.html" not in page  # it has no page
    assert tfopt_command("report", results / "small", results / "large").stdout == "wrote comparison.html\n"


def test_results_on_other_data_are_said(results):
    assert tfopt_command("report", results / "small", results / "large").exit_code == 0
    assert "Unknown data" in Path("comparison.html").read_text(encoding="utf-8")
    for name, data in (("small", "a"), ("large", "a"), ("a & <b>", "b")):
        (results / name / "data.json").write_text(json.dumps({"fingerprint": data}))
    assert tfopt_command("report", results / "small", results / "large").exit_code == 0
    assert "Different data" not in Path("comparison.html").read_text(encoding="utf-8")
    assert tfopt_command("report", results / "small", results / "a & <b>").exit_code == 0
    assert "Different data" in Path("comparison.html").read_text(encoding="utf-8")


def test_results_of_one_name_have_their_paths(results):
    (results / "more").mkdir()
    (results / "small").rename(results / "more" / "large")
    assert tfopt_command("report", results / "large", results / "more" / "large").exit_code == 0
    page = Path("comparison.html").read_text(encoding="utf-8")
    assert "results/large" in page and "results/more/large" in page


def test_what_cannot_be_compared(results):
    (results / "large" / "report.json").write_text(Report({}, [row(5, mae=0.5)]).to_json())
    done = tfopt_command("report", results / "small", results / "large")
    assert done.exit_code == 2 and "Expected results of one task" in done.stderr and "accuracy" in done.stderr
    (results / "large" / "report.json").write_text("{}")
    done = tfopt_command("report", results / "large")
    assert done.exit_code == 2 and "large/report.json: This is not the JSON of a report" in done.stderr
    (results / "large" / "report.json").write_text(Report({}).to_json())
    assert "with rows" in tfopt_command("report", results / "large").stderr
    done = tfopt_command("report", "nowhere")
    assert done.exit_code == 2 and "Expected a folder that tfopt run has written" in done.stderr
    assert "nowhere: it does not exist." in done.stderr and "Errno" not in done.stderr
    Path("empty").mkdir()
    assert "empty: it has no report.json." in tfopt_command("report", "empty").stderr
    assert not Path("comparison.html").exists()


def test_a_page_is_made_without_tensorflow(results):
    import subprocess

    code = (
        "import sys; from tfopt.cli import main\n"
        "try: main(['report', 'results/small'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
