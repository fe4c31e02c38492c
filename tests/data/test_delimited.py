"""CSV files as programs write them: encodings, separators, blanks and quotes."""

import gzip

import numpy as np
import pytest

from tfopt.data import load_data
from tfopt.data.columns import read_columns
from tfopt.errors import DataError


def columns_of(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns, notes = read_columns(path)
    return {name: values.tolist() for name, values in columns.items()}, notes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are(tmp_path, encoding):
    assert columns_of(tmp_path / "a.csv", "a,b\n1,café\n".encode(encoding)) == ({"a": [1], "b": ["café"]}, ())


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_other_encodings_are_named_with_the_line(tmp_path, ending):
    content = "a,b\n1,x\n2,café\n".encode("latin-1")
    with pytest.raises(DataError, match=r"in UTF-8, got other bytes in line 3, .*Latin-1\) reads '2,café'"):
        columns_of(tmp_path / f"a.{ending}", gzip.compress(content) if ending.endswith("gz") else content)


def test_separators(tmp_path):
    assert columns_of(tmp_path / "a.csv", "a,b;c\n1,2\n") == ({"a": [1], "b;c": [2]}, ())
    found, notes = columns_of(tmp_path / "a.csv", 'a;"b, c";d\n1,5;x, y;3\n2;z;4\n')
    assert found == {"a": [1.5, 2.0], "b, c": ["x, y", "z"], "d": [3, 4]}
    assert notes == ("columns are separated by ';'", "numbers have a decimal comma")
    assert columns_of(tmp_path / "a.csv", "a;b\n1.5;2\n")[0] == {"a": [1.5], "b": [2]}
    assert columns_of(tmp_path / "a.csv", "a|b\n1|2\n")[0] == {"a": [1], "b": [2]}
    assert columns_of(tmp_path / "a.csv", "a\n1\n") == ({"a": [1]}, ())
    assert columns_of(tmp_path / "a.tsv", "a,x\tb\n1\t2\n") == ({"a,x": [1], "b": [2]}, ())


def test_blanks_in_the_header(tmp_path):
    found, notes = columns_of(tmp_path / "a.csv", "a, price \n1,2\n")
    assert found == {"a": [1], "price": [2]} and notes == ("blanks around the names of columns do not count: price",)
    with pytest.raises(DataError, match=r"each column of .* once, got a several times"):
        columns_of(tmp_path / "a.csv", "a, a\n1,2\n")


@pytest.mark.parametrize(("content", "line"), [('a,b\n1,x\n2,"y\n3,z\n', 3), ('a,b\n1,"x\n2,"y"\n', 2)])
def test_a_quote_that_is_never_closed(tmp_path, content, line):
    with pytest.raises(DataError, match=f"every quote of .* closed, got one from line {line} on"):
        columns_of(tmp_path / "a.csv", content)


def test_quotes_that_are_meant(tmp_path):
    content = 'a,b\n5" disk,"x\n,""y"""\n'
    assert columns_of(tmp_path / "a.csv", content)[0] == {"a": ['5" disk'], "b": ['x\n,"y"']}


def test_columns_of_texts_keep_their_zeros(tmp_path):
    (tmp_path / "a.csv").write_text(" zip,b\n01,02\n")
    columns, _ = read_columns(tmp_path / "a.csv", texts={"zip"})
    assert columns["zip"].tolist() == ["01"] and columns["b"].dtype == np.int64


def test_separators_in_quotes_are_text(tmp_path):
    found, notes = columns_of(tmp_path / "a.csv", 'a,b,"c;d;e;f;g;h",label\n1,2,3,x\n')
    assert found == {"a": [1], "b": [2], "c;d;e;f;g;h": [3], "label": ["x"]} and notes == ()
    assert columns_of(tmp_path / "a.csv", 'size 5",b\n1,"2;"\n')[0] == {'size 5"': [1], "b": ["2;"]}


def test_lines_of_blanks_are_no_rows(tmp_path):
    assert columns_of(tmp_path / "a.csv", "a,b\n1,2\n  \n3,4\n \t \n")[0] == {"a": [1, 3], "b": [2, 4]}
    with pytest.raises(DataError, match="Expected 2 columns, got 1"):
        columns_of(tmp_path / "a.csv", "a,b\n1,2\n3\n")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["01.03.2024", "31.12.2023", "05.05.2024"], ["01.03.2024", "31.12.2023", "05.05.2024"]),
        (["v1.2", "v1.3", "v2.0"], ["v1.2", "v1.3", "v2.0"]),
        (["3,5 kg", "a 1,5", "x"], ["3,5 kg", "a 1,5", "x"]),
        (["1.234,5", "0,25", "-12"], ["1234.5", "0.25", "-12"]),
        (["1.234", "12", "56.000.000"], ["1234", "12", "56000000"]),
        (["1.234", "999", ""], ["1234", "999", None]),
        (["1.234,50 €", "3,25 €", "7 €"], ["1234.50 €", "3.25 €", "7 €"]),
        (["1.234,5", "-", "n/a"], ["1234.5", "-", None]),
        (["1.5", "2.25", "3.125"], ["1.5", "2.25", "3.125"]),  # numbers with a point are read as such
        (["1,5", "2.5", "0,5"], ["1,5", "2.5", "0,5"]),  # an error where numbers are needed
    ],
)
def test_decimal_commas_beside_other_columns(tmp_path, column, expected):
    rows = "".join(f"{each};{number},5\n" for number, each in enumerate(column))
    found, notes = columns_of(tmp_path / "a.csv", "a;b\n" + rows)
    assert found == {"a": expected, "b": [0.5, 1.5, 2.5]} and "numbers have a decimal comma" in notes
    changed = [(old, new) for old, new in zip(column, expected, strict=True) if new and old != new]
    said = [note for note in notes if "since numbers have a decimal comma" in note]
    assert len(said) == bool(changed) and all(repr(changed[0][0]) in note for note in said)
    assert ("numbers in 'a' have a decimal point" in notes) == (expected[0] == "1.5")


def test_decimal_commas_that_may_be_others(tmp_path):
    with pytest.raises(DataError, match=r"numbers in column 'a' written alike, got '1.234' and '5678': the point may"):
        columns_of(tmp_path / "a.csv", "a;b\n1.234;0,5\n5678;1,5\n")
    # all commas may stand between thousands, and a number has a decimal point
    found, notes = columns_of(tmp_path / "a.csv", "a;b\n1,234;0.5\n12,345;1.5\n")
    assert found == {"a": ["1,234", "12,345"], "b": [0.5, 1.5]} and "numbers have a decimal comma" not in notes
    assert columns_of(tmp_path / "a.csv", "a;b\n1,234;x\n12,345;y\n")[0]["a"] == [1.234, 12.345]
    assert columns_of(tmp_path / "a.csv", "a;b\n1,234.5;1\n12,345.5;2\n")[0]["a"] == ["1,234.5", "12,345.5"]


@pytest.mark.parametrize("cells", [("0,5", "1.5", "2,5"), ("3,5", "three", "four"), ("1,234,567", "2,5 kg", "x")])
def test_columns_that_do_not_decide_on_decimal_commas(tmp_path, cells):
    found, notes = columns_of(tmp_path / "a.csv", "a;b\n" + "".join(f"{cell};1.5\n" for cell in cells))
    assert found == {"a": list(cells), "b": [1.5] * 3} and notes == ("columns are separated by ';'",)


def test_decimal_commas_are_features_and_labels(tmp_path):
    rows = [f"{day:02}.03.2024;1.{day + 100},5;{day},25" for day in range(1, 29)]
    (tmp_path / "a.csv").write_text("day;value;label\n" + "\n".join(rows) + "\n")
    data = load_data(tmp_path / "a.csv")
    assert data.task == "regression" and data.preprocessing.features == ("value",)
    whole = {
        round(float(y) - 0.25): x for part in (data.train, data.test) for x, y in zip(part.x(), part.y(), strict=True)
    }
    days = np.array(sorted(whole))
    values = np.array([whole[day][0] for day in days], np.float64)
    np.testing.assert_allclose(
        np.diff(values) / np.diff(days), (values[-1] - values[0]) / (days[-1] - days[0]), rtol=1e-4
    )
    np.testing.assert_allclose(data.preprocessing.columns[0].mean, 1100.5 + data.train.y().mean() - 0.25, rtol=1e-6)
