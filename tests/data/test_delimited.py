"""CSV files as programs write them: encodings, separators, blanks and quotes."""

import gzip

import numpy as np
import pytest

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
