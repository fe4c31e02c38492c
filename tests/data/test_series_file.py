"""Series in tables: the same windows as from the array that was written."""

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

import tfopt
from tfopt import cli
from tfopt.data.dates import dates_in
from tfopt.errors import DataError

RNG = np.random.default_rng(0)
LOAD, HEAT = 50 + np.cumsum(RNG.normal(size=200)), np.arange(200) % 24


def write(path, header, *columns):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    hours = [f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00" for hour in range(200)]
    return write(tmp_path / "load.csv", "hour,load,heat", hours, LOAD, HEAT)


@pytest.mark.parametrize(
    ("targets", "numbers"),
    [(None, None), (["load"], [0]), (("heat", "load"), (1, 0)), ([1], [1]), ("heat", 1), (1, [1])],
)
def test_a_table_gives_what_its_array_gives(table, targets, numbers):
    found = tfopt.load_series(table, window=12, horizon=3, targets=targets)
    wanted = tfopt.load_series(np.stack([LOAD, HEAT], axis=1), window=12, horizon=3, targets=numbers)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(found.split(part).x(), wanted.split(part).x())
        np.testing.assert_array_equal(found.split(part).y(), wanted.split(part).y())
    assert "'hour' left out: its values are dates; steps are taken to be at equal distances" in found.notes
    assert found.source == f"200 steps of 2 columns in {table}"


@pytest.mark.parametrize(
    ("header", "columns", "problem"),
    [
        (
            "load,heat",
            [["1", "", "3", "4"] * 50, HEAT],
            r"got 50 missing values in 'load', the first in row 1; fill",
        ),
        ("load,empty", [LOAD, ['""'] * 200], r"got no value in any step of 'empty'; remove the column"),
        ("load,empty", [LOAD, [""] * 200], r"got no value in any step of 'empty'; remove the column"),
        ("load,marks", [LOAD, ["-", "?"] * 100], r"got no value in any step of 'marks'; remove the column"),
        ("load,city", [LOAD, ["Rome"] * 200], r"got texts in 'city', such as 'Rome'; remove the column"),
        ("day", [["2024-01-01"] * 200], r"Expected a column of numbers in the series .*, got none: 'day' left out"),
    ],
)
def test_what_is_no_series(tmp_path, header, columns, problem):
    with pytest.raises(DataError, match=problem):
        tfopt.load_series(write(tmp_path / "series.csv", header, *columns), window=4)


DAY = np.datetime64("2024-01-01")
MONTHS = np.arange("2010-01", "2026-09", dtype="M8[M]")


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        (DAY + np.arange(200), ""),
        (MONTHS.astype("M8[D]") + 14, ""),
        (MONTHS.astype("M8[D]") - 1, ""),
        (DAY + np.arange(200) + (np.arange(200) >= 50), ", but of 199 only 198 are the usual one, 1 day, 0:00:00"),
        (np.delete(MONTHS, [7]).astype("M8[D]"), ", but of 198 only 197 are the usual one, 1 month"),
        (
            DAY.astype("M8[s]") + 900 * np.delete(np.arange(202), [9, 10]),
            ", but of 199 only 198 are the usual one, 0:15:00",
        ),
    ],
    ids=["days", "months", "last days", "a day is missing", "a month is missing", "times"],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_dates_of_equal_and_other_distances(tmp_path, dates, said, suffix):
    path, load = tmp_path / f"load.{suffix}", LOAD[: len(dates)]
    if suffix == "csv":
        write(path, "day,load", dates, load)
    elif suffix == "parquet":
        times = pa.array(dates.astype("M8[ns]"), pa.timestamp("ns", tz="UTC"))
        parquet.write_table(pa.table({"day": times, "load": load}), path)
    else:
        path.write_text(
            "".join(f'{{"day": "{day}", "load": {value}}}\n' for day, value in zip(dates, load, strict=True))
        )
    data = tfopt.load_series(path, window=4)
    found = [note for note in data.notes if "'day'" in note]
    assert found == [f"'day' left out: its values are dates; steps are taken to be at equal distances{said}"]
    assert data.input_shape == (4, 1)


def as_text(form, days):
    return [form.format(day=each.day, month=each.month, year=each.year) for each in days.astype("M8[D]").tolist()]


SHUFFLED = np.random.default_rng(1).permutation(200)


@pytest.mark.parametrize(
    "form", ["{year}-{month:02}-{day:02}", "{day}.{month}.{year}", "{month}/{day}/{year}", "{day:02}-{month:02}-{year}"]
)
@pytest.mark.parametrize(
    ("order", "note"),
    [
        (np.arange(199, -1, -1), "rows stand from the last 'day' to the first: taken from the first on"),
        (SHUFFLED, f"rows do not stand in order of time ({(np.diff(SHUFFLED) < 0).sum()} steps back): sorted by 'day'"),
    ],
    ids=["from the last on", "shuffled"],
)
def test_rows_in_another_order_than_that_of_time(tmp_path, form, order, note):
    days = as_text(form, DAY + np.arange(200))
    path = write(tmp_path / "load.csv", "day,load", [days[each] for each in order], LOAD[order])
    found = tfopt.load_series(path, window=12)
    wanted = tfopt.load_series(LOAD, window=12)
    assert note in found.notes
    for part in ("train", "test"):
        np.testing.assert_array_equal(found.split(part).x(), wanted.split(part).x())
    assert any(each.endswith("are dates; steps are taken to be at equal distances") for each in found.notes)


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_index_of_pandas_is_no_column_of_the_series(tmp_path, name, first):
    data = tfopt.load_series(write(tmp_path / "load.csv", f"{name},load", np.arange(200) + first, LOAD), window=12)
    assert data.input_shape == (12, 1)
    assert any("since pandas wrote it as the index of the rows" in note for note in data.notes)
    kept = tfopt.load_series(write(tmp_path / "load.csv", "number,load", np.arange(200) + first, LOAD), window=12)
    assert kept.input_shape == (12, 2)


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n"])
def test_an_empty_line_in_a_single_column_is_a_missing_value(tmp_path, end):
    texts = [str(value) for value in LOAD]
    (tmp_path / "load.csv").write_text("\n".join(["load", *texts]) + end)
    assert len(tfopt.load_series(tmp_path / "load.csv", window=12).train.x()) > 0
    assert tfopt.load_series(tmp_path / "load.csv", window=12).source.startswith("200 steps of 1 column")
    texts[50] = ""
    (tmp_path / "load.csv").write_text("\n".join(["load", *texts]) + end)
    with pytest.raises(DataError, match="got 1 missing value in 'load', the first in row 50; fill them in"):
        tfopt.load_series(tmp_path / "load.csv", window=12)


def test_times_that_come_twice(tmp_path):
    hours = DAY.astype("M8[h]") + np.arange(200) - (np.arange(200) >= 100)  # the clocks go back once
    data = tfopt.load_series(write(tmp_path / "load.csv", "hour,load", hours, LOAD), window=12)
    assert not any("order" in note for note in data.notes)
    of_two = np.repeat(DAY + np.arange(100), 2)
    with pytest.raises(
        DataError, match="got 100 of 200 rows with a 'day' that another row has too: keep the rows of one"
    ):
        tfopt.load_series(write(tmp_path / "shops.csv", "day,load", of_two, LOAD), window=12)
    path = write(tmp_path / "twice.csv", "built,day,load", of_two, np.flip(DAY + np.arange(200)), LOAD)
    notes = tfopt.load_series(path, window=12).notes
    assert "rows stand from the last 'day' to the first: taken from the first on" in notes


@pytest.mark.parametrize(
    ("texts", "dates"),
    [
        (["2024-01-31 06:30", None], ["2024-01-31T06:30", "NaT"]),
        (["2024-01-31T06:30:15.5+02:00", "2024-01-31T06:30:15Z"], ["2024-01-31T04:30:15.500", "2024-01-31T06:30:15"]),
        (["1/2/2024", "1/13/2024"], ["2024-01-02", "2024-01-13"]),
        (["1/2/2024", "13/2/2024"], ["2024-02-01", "2024-02-13"]),
        (["1.2.2024", "2.2.2024"], ["2024-02-01", "2024-02-02"]),
        (["1/1/2024", "1/2/2024", "1/3/2024", "1/4/2024"], ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"]),
        (["1/1/2024", "2/2/2024"], ["2024-01-01", "2024-02-02"]),
        (["1/3/2024", "2/5/2024"], None),
        (["31/31/2024", "1/1/2024"], None),
    ],
)
def test_dates_in_texts(texts, dates):
    found = dates_in(texts)
    assert (found is None) == (dates is None)
    if dates:
        np.testing.assert_array_equal(found, np.array(dates, "M8[us]"))


@pytest.mark.parametrize(
    ("missing", "left"), [(np.arange(200) == 9, 197), (np.arange(200) % 3 == 0, 66)], ids=["one", "most distances"]
)
def test_missing_dates_and_empty_columns_in_parquet(tmp_path, missing, left):
    dates = np.where(missing, np.datetime64("NaT"), DAY + np.arange(200))
    columns = {"day": dates, "odd": ["1.5.2024"] * 200, "load": LOAD}
    parquet.write_table(pa.table(columns), tmp_path / "load.parquet")
    notes = tfopt.load_series(tmp_path / "load.parquet", window=4).notes
    assert any(note.endswith(f"but of 199 only {left} are the usual one, 1 day, 0:00:00") for note in notes)
    assert "'odd' left out: its texts are dates; steps are taken to be at equal distances" in notes
    parquet.write_table(pa.table({"load": LOAD, "x": pa.array([None] * 200, pa.string())}), tmp_path / "load.parquet")
    with pytest.raises(DataError, match="got no value in any step of 'x'; remove the column, or fill it in"):
        tfopt.load_series(tmp_path / "load.parquet", window=4)


def test_other_files_and_columns(table, tmp_path):
    with pytest.raises(DataError, match=r"or as a table \(\.csv, \.tsv, \.jsonl or \.parquet\), got"):
        tfopt.load_series(tmp_path / "series.txt", window=4)
    with pytest.raises(DataError, match=r"Expected targets among the columns load, heat, got 'cold'"):
        tfopt.load_series(table, window=4, targets=["cold"])
    with pytest.raises(DataError, match=r"Expected targets among the columns load, heat, got 'loadheat'"):
        tfopt.load_series(table, window=4, targets="loadheat")
    for name in ("load", ["load"]):
        with pytest.raises(
            DataError, match=r"as numbers of columns, since those of an array have no names, got 'load'"
        ):
            tfopt.load_series(LOAD, window=4, targets=name)


def run(*arguments):
    return CliRunner().invoke(cli.main, ["run", "forecasting", *map(str, arguments)])


def test_the_command_forecasts_a_table(table, tmp_path):
    options = ["--window", 12, "--horizon", 3, "--targets", "load", "--epochs-factor", 0.05, "--out", tmp_path / "out"]
    done = run("--data", table, *options, "--quiet")
    assert done.exit_code in (0, 1), done.output  # two epochs may be worse than the naive forecast
    assert tfopt.LiteModel(tmp_path / "out" / "model.tflite").predict(np.zeros((1, 12, 2), "float32")).shape == (1, 3)
    assert "naive forecast" in done.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--horizon", 3], "--horizon and --targets are for series: give --window, too."),
        (["--window", 3], "--window cuts a series: give the table that holds it with --data."),
        (["--window", 3, "--data", "load.csv", "--limit", 5], "Expected no --limit beside --window"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, problem):
    done = run(*options, "--out", tmp_path / "out")
    assert done.exit_code == 2 and problem in " ".join(done.output.split())
