"""Tables of several files: parts by their names, or one table in pieces."""

import gzip

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import tfopt
from tfopt.data.table_files import table_files
from tfopt.errors import DataError


def write(path, rows, header="x,kind,label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def rows_of(start, count, kind=lambda at: "uv"[at % 2]):
    return [f"{at}.5,{kind(at)},{'yes' if at % 2 else 'no'}" for at in range(start, start + count)]


def first_numbers(part):
    """The column x as it was before it was standardized."""
    column = part.preprocessing.columns[0]
    return sorted(np.round(part.x()[:, 0] * column.deviation + column.mean, 3).tolist())


def test_files_named_by_their_parts(tmp_path):
    write(tmp_path / "train.csv", rows_of(0, 40))
    write(tmp_path / "test.csv", rows_of(100, 8))
    write(tmp_path / "valid.csv", rows_of(200, 6))
    (tmp_path / "README.md").write_text("about")
    data = tfopt.load_data(tmp_path)
    for part, start, count in ((data.train, 0, 40), (data.test, 100, 8), (data.validation, 200, 6)):
        assert first_numbers(part) == [at + 0.5 for at in range(start, start + count)]
    assert "rows: 8 from test.csv, 40 from train.csv, 6 from valid.csv" in data.notes
    same = tfopt.load_data(
        {"train": tmp_path / "train.csv", "validation": str(tmp_path / "valid.csv"), "test": tmp_path / "test.csv"}
    )
    assert first_numbers(same.train) == first_numbers(data.train) and first_numbers(same.test) == first_numbers(
        data.test
    )


def test_pieces_of_one_table(tmp_path):
    for piece in range(3):
        table = pyarrow.table({"x": np.arange(20) + 20 * piece, "label": np.arange(20) % 2})
        parquet.write_table(table, tmp_path / f"part-{piece:05}.parquet")
    (tmp_path / "_SUCCESS").touch()
    data = tfopt.load_data(tmp_path, validation=0.2, test=0.2)
    every = [value for part in (data.train, data.validation, data.test) for value in first_numbers(part)]
    assert sorted(every) == list(range(60)) and data.source == f"table {tmp_path.name}"


def test_pieces_of_parts_in_folders(tmp_path):
    for part, start in (("train", 0), ("test", 100)):
        for piece in range(2):
            write(tmp_path / part / f"{piece}.csv", rows_of(start + 10 * piece, 10))
    data = tfopt.load_data(tmp_path)
    assert len(data.test) == 20 and min(first_numbers(data.test)) == 100.5
    assert len(data.train) + len(data.validation) == 20


def test_a_column_with_texts_in_one_file_has_texts_in_all(tmp_path):
    write(tmp_path / "a.csv", rows_of(0, 10, lambda at: f"00{at % 2}"))
    write(tmp_path / "b.csv", rows_of(30, 30, lambda at: "other" if at % 9 else "001"))
    data = tfopt.load_data(tmp_path)
    assert set(data.preprocessing.columns[1].values) == {"000", "001", "other"}


def test_texts(tmp_path):
    for part, count in (("train", 30), ("test", 10)):
        lines = "".join(f"good film {at},{at % 2}\n" for at in range(count))
        with gzip.open(tmp_path / f"{part}.csv.gz", "wt") as file:
            file.write("text,label\n" + lines)
    data = tfopt.load_data(tmp_path)
    assert data.preprocessing.kind == "text" and len(data.test) == 10


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("train.csv", "sample_submission.csv"), "optionally, validation and test, got sample_submission.csv"),
        (("test.csv", "valid.csv"), "got test.csv, valid.csv"),
    ],
)
def test_names_that_do_not_say_all(tmp_path, files, words):
    for name in files:
        write(tmp_path / name, rows_of(0, 10))
    with pytest.raises(DataError, match=words):
        tfopt.load_data(tmp_path)


def test_other_columns_or_both_ways_to_say_parts(tmp_path):
    write(tmp_path / "train.csv", rows_of(0, 10))
    write(tmp_path / "test.csv", ["1.5,u"], "x,kind")
    with pytest.raises(DataError, match=r"same columns in all files of .*, got no label in test\.csv; leave out"):
        tfopt.load_data(tmp_path)
    for name in ("train.csv", "test.csv"):
        write(tmp_path / name, [f"{row},train" for row in rows_of(0, 10)], "x,kind,label,split")
    with pytest.raises(DataError, match="or in a column 'split', got both"):
        tfopt.load_data(tmp_path)
    with pytest.raises(DataError, match=r"path that does not exist: nowhere\.csv"):
        tfopt.load_data({"train": tmp_path / "train.csv", "test": "nowhere.csv"})


def test_other_folders_are_no_tables(tmp_path):
    write(tmp_path / "labels.csv", rows_of(0, 3))
    assert table_files(tmp_path) is not None
    (tmp_path / "photo.png").touch()
    assert table_files(tmp_path) is None
    (tmp_path / "photo.png").unlink()
    (tmp_path / "cats").mkdir()
    assert table_files(tmp_path) is None and table_files({"train": np.zeros(3)}) is None


def test_the_digits_are_not_a_folder_of_tables_with_their_name(tmp_path, monkeypatch):
    write(tmp_path / "digits" / "train.csv", rows_of(0, 20))
    monkeypatch.chdir(tmp_path)
    assert tfopt.load_data("digits").input_shape == (8, 8, 1)
    assert tfopt.load_data("./digits").source == "table digits"
