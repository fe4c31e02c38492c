"""Tables of numbers and categories as vectors: expected values by hand and from scikit-learn."""

import gzip
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.preprocessing import StandardScaler

import tfopt
from tfopt.data import load_data
from tfopt.data.beside import stated_beside
from tfopt.data.cells import as_numbers, if_numbers
from tfopt.data.dates import are_dates
from tfopt.data.for_model import data_for
from tfopt.data.front_ends import front_end_from
from tfopt.errors import DataError
from tfopt.inputs import Table


def rows_of(**columns):
    return np.rec.fromarrays(list(columns.values()), names=list(columns))


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    """A hundred rows: age with every tenth missing, a city, whether somebody smokes, and a label that age decides."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(100):
        age, city = rng.integers(20, 60), rng.choice(["Rome", "Bern", "Oslo"], p=[0.5, 0.3, 0.2])
        smokes, target = ("true" if number % 3 else "false"), ("old" if age > 40 else "young")
        rows.append(f"{'' if number % 10 == 0 else age},{city},{smokes},{target}")
    return write(tmp_path / "people.csv", "age,city,smokes,target", rows)


def test_features_by_hand():
    raw = rows_of(
        age=np.array([1.0, np.nan, 3.0, 8.0]),
        city=np.array(["b", "a", "b", None], object),
        member=np.array([True, False, True, True]),
    )
    fitted, notes = Table().fitted(raw)
    assert fitted.features == ("age", "age?", "city=b", "city=a", "city=None", "member")
    filled = np.array([1, 3, 3, 8.0])
    age = (filled - filled.mean()) / filled.std()
    member = (np.array([1, 0, 1, 1]) - 0.75) / np.sqrt(0.75 * 0.25)
    wanted = np.stack([age, [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], member], axis=1)
    np.testing.assert_allclose(fitted.stored(raw), wanted, atol=1e-6)
    assert notes == ("'age': 25 % missing, replaced by the median 3 and marked",)
    other = rows_of(age=np.array([2.0]), city=np.array(["z"], object), member=np.array([False]), extra=np.array([1]))
    np.testing.assert_allclose(fitted.stored(other)[0, 1:5], 0)  # a city that no training row has
    assert fitted.notes([other]) == (
        "'city': 1 of 1 values are not in the training rows", "columns that the model does not use: extra",
    )  # fmt: skip
    assert front_end_from(json.loads(json.dumps(fitted.to_dict())), lambda name: b"") == fitted


def test_statistics_are_of_the_training_part_alone(tmp_path):
    """The test rows are a thousand times larger, and have one more category."""
    rows = [f"train,{number},a,{number % 2}" for number in range(50)]
    rows += [f"test,{1000 * number},b,{number % 2}" for number in range(50)]
    data = load_data(write(tmp_path / "a.csv", "split,x,kind,label", rows))
    assert data.preprocessing.features == ("x", "kind=a")
    x = data.train.x()[:, 0]
    assert abs(x.mean()) < 1e-6 and x.std() == pytest.approx(1, abs=1e-5)
    column = data.preprocessing.columns[0]
    np.testing.assert_allclose(data.test.x()[:, 0], (1000 * np.arange(50) - column.mean) / column.deviation, rtol=1e-5)
    assert (data.test.x()[:, 1] == 0).all() and any("50 of" in note for note in data.notes)


def test_a_table_of_numbers_and_categories(table):
    data = load_data(table, labels="target")
    assert data.class_names == ("old", "young") and data.task == "classification"
    assert data.preprocessing.features == ("age", "age?", "city=Rome", "city=Bern", "city=Oslo", "smokes")
    assert data.input_shape == (6,) and data.train.x().dtype == np.float32
    present = data.test.x()[:, 1] == 0
    ages = data.test.x()[present, 0]
    assert ages[data.test.y()[present] == 0].min() > ages[data.test.y()[present] == 1].max()


def test_a_column_far_from_zero_is_standardized():
    """Seconds since 1970 over an hour: (x - mean) / deviation, by hand."""
    seconds = np.arange(3600.0)
    fitted, _ = Table().fitted(rows_of(time=1.7e9 + seconds, kind=np.array(["a", "b"] * 1800, object)))
    wanted = (seconds - 1799.5) / np.sqrt((3600**2 - 1) / 12)
    np.testing.assert_allclose(fitted.stored(rows_of(time=1.7e9 + seconds, kind=["a"] * 3600))[:, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("texts", [np.array(["é", "b", "é"]), np.array(["é", "b", "é"]).astype(object)])
def test_texts_of_any_kind_are_categories(texts):
    rows = rows_of(number=np.array([1.0, 2.0, 3.0]), kind=texts, raw=np.char.encode(texts.astype(str), "utf-8"))
    fitted, _ = Table().fitted(rows)
    assert fitted.features == ("number", "kind=é", "kind=b", "raw=é", "raw=b")
    assert fitted.stored(rows)[:, 1:].tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert fitted.notes([rows]) == ()


def test_dates_of_numpy_are_left_out_with_a_note():
    days = np.array(["2024-01-31", "NaT", "2024-02-01"], "datetime64[D]")
    fitted, notes = Table().fitted(rows_of(number=np.array([1.0, 2.0, 3.0]), day=days))
    assert fitted.features == ("number",)
    assert notes == ("'day' left out: its texts are dates, such as 2024-01-31; give what matters of them as numbers",)


def test_the_target_decides_the_task(tmp_path):
    rows = [f"{number},{number / 3}" for number in range(60)]
    data = load_data(write(tmp_path / "a.csv", "x,price", rows), labels="price")
    assert (data.task, data.class_names, data.train.y().dtype) == ("regression", None, np.float32)
    whole = [f"{number},{number}" for number in range(60)]
    assert load_data(write(tmp_path / "b.csv", "x,price", whole), labels="price").task == "regression"
    few = [f"{number},{number % 3 + 4}" for number in range(60)]
    data = load_data(write(tmp_path / "c.csv", "x,quality", few), labels="quality")
    assert (data.class_names, set(data.train.y())) == (("4", "5", "6"), {0, 1, 2})


@pytest.mark.parametrize("task", ["regression", "forecasting"])
@pytest.mark.parametrize("inputs", ["x", "text"])
def test_few_integers_are_values_if_the_task_says_so(tmp_path, task, inputs):
    rows = [f"{number % 7} words,{18 + number % 42}" for number in range(210)]
    if inputs == "x":
        rows = [row.replace(" words", "") for row in rows]
    data = load_data(write(tmp_path / "a.csv", f"{inputs},age", rows), labels="age", task=task)
    assert (data.task, data.class_names, data.preprocessing.classes) == (task, None, None)
    assert sorted(set(data.train.y())) == list(range(18, 60))


@pytest.mark.parametrize("values", [np.full(90, 0.1), np.tile([300.0, 1000 * (0.1 + 0.2)], 45)])
def test_nearly_constant_columns_stay_small(values):
    """The deviation of ninety times 0.1 is 1.4e-17 in float64."""
    fitted, _ = Table().fitted(rows_of(x=values))
    assert fitted.columns[0].deviation == 1
    assert fitted.stored(rows_of(x=values[:1] + 0.03)) == pytest.approx(0.03, abs=1e-3)


def test_what_is_constant_in_the_type_of_a_file_is_no_feature(tmp_path):
    """Two neighbors of float32 around 1/3 are constant there, and 3e-8 apart; numbers of float64 as close vary."""
    third = np.float32(1 / 3)
    values = np.where(np.arange(300) % 3 == 0, np.nextafter(third, np.float32(1)), third)
    assert values.dtype == np.float32
    columns = {"single": values, "double": values.astype(np.float64), "label": np.tile(["x", "y"], 150)}
    parquet.write_table(pa.table({name: pa.array(each) for name, each in columns.items()}), tmp_path / "a.parquet")
    data = load_data(tmp_path / "a.parquet")
    single, double = data.preprocessing.columns
    gap, share = 2.0**-25, (data.train.x()[:, 1] > 0).mean()  # the spacing in [1/4, 1/2)
    assert single.deviation == 1 and np.abs(data.train.x()[:, 0]).max() < 2 * gap
    assert double.deviation == pytest.approx(gap * np.sqrt(share * (1 - share)), rel=1e-6)


def test_columns_that_say_nothing_are_left_out_with_a_note(tmp_path):
    rows = [f"{number},id{number},{number % 7},{number % 2}" for number in range(120)]
    data = load_data(write(tmp_path / "a.csv", ",name,x,label", rows))
    assert data.preprocessing.features == ("x",)
    assert "the column without a name is left out" in data.notes
    assert any("'name' left out: " in note and "different texts" in note for note in data.notes)


def test_rare_categories_have_no_feature():
    names = np.array(["a"] * 20 + ["b"] * 10 + ["c"] * 5, object)
    fitted, notes = Table(most_categories=2).fitted(rows_of(kind=names, x=np.arange(35.0)))
    assert fitted.features == ("kind=a", "kind=b", "x")
    assert "2 most frequent of 3 values have a feature, those of 5 training rows do not" in notes[0]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([*(f"{number},a" for number in range(30)), "many,b"], r"numbers in column 'x', got 'many' in row 30; correct"),
        (["1,a", "1,b", "many,b"] * 10, r"got 'many' in row 2 and 9 more words; .*Table\(categories=\('x',\)\)"),
        (['"1,234",a', "5,b"] * 10, "got '1,234' in row 0 .*write a decimal point"),
        (["1,b"] * 30 + ["inf,a"] * 5, "numbers in column 'x', got inf in row 30"),
        (["1,"] * 3 + ["1,b"] * 30, "3 rows without 'label', the first is row 0"),
    ],
)
def test_bad_values_are_named(tmp_path, rows, problem):
    with pytest.raises(DataError, match=problem):
        load_data(write(tmp_path / "a.csv", "x,label", rows), test=0.05, validation=0.05)


def test_words_among_few_numbers_are_categories_and_marks_are_missing(tmp_path):
    """Six of twelve values are numbers, which is not more than half."""
    rows = [f"{size},{mark},{number % 2}" for number in range(6) for size, mark in ((number, number), ("many", "?"))]
    data = load_data(write(tmp_path / "a.csv", "size,age,label", rows), test=0.1, validation=0.1)
    assert data.preprocessing.features[0] == "size=many" and data.preprocessing.features[-2:] == ("age", "age?")
    assert "'age': '?' (6) taken as missing" in data.notes


def test_a_word_among_the_test_rows_alone_is_an_error(tmp_path):
    rows = [f"train,{number},{number % 2}" for number in range(30)] + ["test,many,0", "test,3,1"]
    with pytest.raises(DataError, match="got 'many' in row 30"):
        load_data(write(tmp_path / "a.csv", "split,x,label", rows))


@pytest.mark.parametrize("gap", ["train", "new"])
def test_whole_numbers_that_are_names_beside_missing_ones(tmp_path, gap):
    """A missing value makes a column of integers one of floats."""
    rows = [f'{{"zip": {10000 + number % 3}, "x": {number}, "label": {number % 2}}}' for number in range(40)]
    rows = {name: [row.replace("10002", "null") if name == gap else row for row in rows] for name in ("train", "new")}
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    data = load_data(tmp_path / "train.jsonl", preprocessing=Table(categories=("zip",)))
    assert {"zip=10000", "zip=10001"} < set(data.preprocessing.features)
    new = load_data(tmp_path / "new.jsonl", preprocessing=data.preprocessing).train.x()
    zips = [place for place, name in enumerate(data.preprocessing.features) if name in ("zip=10000", "zip=10001")]
    assert 0.5 < new[:, zips].sum(axis=1).mean() < 0.8


def test_columns_of_other_values_are_left_out_with_a_note(tmp_path):
    lines = [f"2024-01-{1 + number % 28:02},{number},{number % 2}" for number in range(40)]
    path = write(tmp_path / "a.csv", "day,x,label", lines)
    data = load_data(path)
    assert data.preprocessing.features == ("x",)
    assert any(note.startswith("'day' left out: date32") for note in data.notes)
    assert "day=2024-01-01" in load_data(path, preprocessing=Table(categories=("day",))).preprocessing.features
    with pytest.raises(DataError, match=r"numbers, booleans or texts in column 'day' of .*, got date32"):
        load_data(path, labels="day")
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"x": {n}, "list": [1], "label": {n % 2}}}' for n in range(40)))
    assert load_data(tmp_path / "a.jsonl").preprocessing.features == ("x",)


@pytest.mark.parametrize("kind", ["time64[us]", "duration[ms]", "binary"])
def test_parquet_of_other_values(tmp_path, kind):
    columns = {"x": pa.array(range(40)), "other": pa.array([None] * 40, pa.type_for_alias(kind))}
    parquet.write_table(pa.table({**columns, "label": pa.array([0, 1] * 20)}), tmp_path / "a.parquet")
    data = load_data(tmp_path / "a.parquet")
    assert data.preprocessing.features == ("x",) and any("'other' left out" in note for note in data.notes)


def test_words_that_count_as_missing_labels_are_named(tmp_path):
    rows = [f"{number},{'None' if number % 2 else 'some'}" for number in range(40)]
    with pytest.raises(DataError, match=r"20 rows without 'label', .* unless they are quoted: NA, .* None"):
        load_data(write(tmp_path / "a.csv", "x,label", rows))
    quoted = [row.replace("None", '"None"') for row in rows]
    assert load_data(write(tmp_path / "b.csv", "x,label", quoted)).class_names == ("None", "some")


def test_numbers_that_are_names(tmp_path):
    """Leading zeros and all: other rows are read alike."""
    rows = [f"0{number % 3},{number},{number % 2}" for number in range(40)]
    data = load_data(write(tmp_path / "a.csv", "zip,x,label", rows), preprocessing=Table(categories=("zip",)))
    assert set(data.preprocessing.features) == {"zip=00", "zip=01", "zip=02", "x"}
    other = load_data(write(tmp_path / "b.csv", "zip,x,label", rows[:20]), preprocessing=data.preprocessing)
    assert (other.train.x()[:, :3].sum(axis=1) == 1).all()
    with pytest.raises(DataError, match="the column 'city', one of categories, got zip, x"):
        load_data(tmp_path / "a.csv", preprocessing=Table(categories=("city",)))


def test_parts_may_differ_in_the_types_of_columns():
    """A column of integers in one part and of floats in another."""
    train = rows_of(x=np.arange(40), kind=np.array(["a", "b"] * 20, object))
    test = rows_of(x=np.array([0.5, np.nan]), kind=np.array(["a", "z"], object))
    data = load_data(((train, np.arange(40) % 2), (test, np.arange(2))), preprocessing=Table())
    assert "'kind': 1 of 42 values are not in the training rows" in data.notes


def test_categories_are_compared_as_texts():
    """The values of a trained column may come back as numbers or with blanks: they are no strangers."""
    fitted, _ = Table(categories=("zip",)).fitted(rows_of(zip=np.array(["1", "2"], object), x=np.arange(2.0)))
    again = rows_of(zip=np.array([1, 2, 3]), x=np.arange(3.0))
    np.testing.assert_array_equal(fitted.stored(again)[:, :2], [[1, 0], [0, 1], [0, 0]])
    assert fitted.notes([again]) == ("'zip': 1 of 3 values are not in the training rows",)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["train", "train", "tset"], r"train, validation or test \(or training, val, .*\) in .*, got 'tset' in row 2"),
        (["train", "", "test"], "got None in row 1"),
        (["test", "test", "test"], "Expected rows of train in the column 'split', got test"),
    ],
)
def test_a_column_split_is_complete(tmp_path, values, problem):
    rows = [f"{number},{values[number % 3]},{number // 3 % 2}" for number in range(60)]
    with pytest.raises(DataError, match=problem):
        load_data(write(tmp_path / "a.csv", "x,split,label", rows))


def test_a_column_split_of_other_words_is_a_feature(tmp_path):
    rows = [f"{number},{'ab'[number // 2 % 2]},{number % 2}" for number in range(60)]
    data = load_data(write(tmp_path / "a.csv", "x,split,label", rows))
    assert set(data.preprocessing.features) == {"x", "split=a", "split=b"}
    assert any("'split' is a column like any other" in note for note in data.notes)
    rows = [f"{number},{('train', 'test')[number % 2]},{number % 2}" for number in range(60)]
    again = load_data(write(tmp_path / "b.csv", "x,split,label", rows), preprocessing=data.preprocessing)
    assert again.input_shape == (3,)  # a feature where the model was trained on it


def test_labels_with_a_word_among_values(tmp_path):
    rows = [f"{number},{1.5 * number if number != 7 else 'many'}" for number in range(60)]
    with pytest.raises(DataError, match="numbers in column 'price', got 'many' in row 7"):
        load_data(write(tmp_path / "a.csv", "x,price", rows), labels="price")
    rows[7] = "7,?"
    with pytest.raises(DataError, match="1 row without 'price', the first is row 7"):
        load_data(write(tmp_path / "a.csv", "x,price", rows), labels="price")
    digits = [f"{number},{'0123456789AB'[number % 12]}" for number in range(60)]
    assert load_data(write(tmp_path / "b.csv", "x,label", digits)).num_classes == 12
    with pytest.raises(DataError, match="two classes in 'label', got a in every row"):
        load_data(write(tmp_path / "a.csv", "x,label", [f"{number},a" for number in range(60)]))


def test_other_bad_input(table, tmp_path):
    with pytest.raises(DataError, match=r"column 'label' in .*got target, age, city, smokes; .*labels="):
        load_data(table)
    many = write(tmp_path / "many.csv", "a,b,c,d,e,f,Target,prize", ["1,2,3,4,5,6,7,8"] * 30)
    for wanted, shown in (
        ({"labels": "target"}, "'target' in .*, got Target, a, b, c, d and 3 more"),
        ({"labels": "price"}, "'price' in .*, got prize, Target, a"),
    ):
        with pytest.raises(DataError, match=f"{shown}.*: labels= .--labels.[.]$"):
            load_data(many, **wanted)
    with pytest.raises(
        DataError, match=r"'label' in .*, got Target, a, b.*--labels., or, .* series, .* .--window.[.]$"
    ):
        load_data(many)
    with pytest.raises(DataError, match=r"got a list of 2 dicts, the rows of a table\. Write .*to_csv"):
        load_data([{"age": 3, "kind": "a"}, {"age": 4, "kind": "b"}])
    with pytest.raises(DataError, match="most_categories of 1 or more"):
        Table(most_categories=0)
    with pytest.raises(DataError, match="structured array"):
        load_data((np.zeros((20, 3)), np.arange(20) % 2), preprocessing=Table())
    with pytest.raises(DataError, match="columns beside 'label'"):
        load_data(write(tmp_path / "a.csv", "label", ["a", "b"] * 10))


@pytest.fixture
def result(table, tmp_path):
    data = load_data(table, labels="target")
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    made = tfopt.optimize(keras.Sequential([keras.Input((6,)), *layers]), tfopt.FineTune(epochs=1), data, quiet=True)
    made.save(tmp_path / "result")
    return made, data, tmp_path / "result"


def test_a_result_encodes_other_rows_alike(result, table):
    made, data, folder = result
    assert stated_beside(folder) == data.preprocessing == made.lite.preprocessing
    other = write(table.with_name("other.csv"), "city,smokes,age,target", ["Oslo,true,90,old"] * 10)
    fed = data_for(made.model, other, beside=[folder], quiet=True)
    age = data.preprocessing.columns[0]
    assert fed.train.x()[0].tolist() == pytest.approx([(90 - age.mean) / age.deviation, 0, 0, 0, 1, *data_smokes(data)])
    assert fed.class_names == ("old", "young")
    write(other, "smokes,age,target", ["true,90,old"] * 10)
    with pytest.raises(DataError, match="Expected the column 'city', on which the model was trained"):
        data_for(made.model, other, beside=[folder])
    write(other, "city,smokes,age,target", ["Oslo,true,ninety,old"] * 10)
    with pytest.raises(DataError, match="numbers in column 'age', got 'ninety' in row 0"):
        data_for(made.model, other, beside=[folder])


def data_smokes(data):
    column = data.preprocessing.columns[-1]
    return [(1 - column.mean) / column.deviation]


def test_numbers_are_scaled_as_scikit_learn_does():
    x = np.random.default_rng(0).normal(5, 3, 40)
    fitted, _ = Table().fitted(rows_of(x=x))
    np.testing.assert_allclose(fitted.stored(rows_of(x=x)), StandardScaler().fit_transform(x[:, None]), atol=1e-6)


WRITTEN = {
    "percent": (["12%", "3.5 %", "-7%", "n/a"], [12, 3.5, -7, np.nan], "'3.5 %' is read as the number 3.5"),
    "dollars": (
        ["$1.5", "$1,234.50", "-$200", None],
        [1.5, 1234.5, -200, np.nan],
        "'$1,234.50' is read as the number 1234.50",
    ),
    "euros": (["1 €", "20 €", "300€"], [1, 20, 300], "€"),
    "thousands": (
        ["1,234,567", "12,500", "999", "0"],
        [1234567, 12500, 999, 0],
        "'1,234,567' is read as the number 1234567",
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_numbers_with_one_unit_or_thousands_are_numbers(case):
    texts, numbers, said = WRITTEN[case]
    found, notes = if_numbers("x", np.array(texts, object))
    np.testing.assert_array_equal(found, numbers)
    assert any(said in note and note.endswith("and the others alike") for note in notes)
    np.testing.assert_array_equal(as_numbers("x", np.array(texts, object)), numbers)


@pytest.mark.parametrize("texts", [["12%", "$3", "4%", "5%"], ["12%", "free", "4%"], ["1%", "2", "3%", "4"]])
def test_units_that_differ_leave_categories_with_a_note(texts):
    values = np.array(texts, object)
    found, (note,) = if_numbers("x", values)
    assert found is values and f"since {next(t for t in texts if '%' not in t)!r} is not written as" in note


@pytest.mark.parametrize("texts", [["1,234", "5,678"], ["$1,234", "$5"], ["1,234,567", "12345"], ["1,234,567", "0,5"]])
def test_commas_that_may_be_decimal_are_an_error(texts):
    with pytest.raises(DataError, match="write a decimal point and no other separator"):
        if_numbers("x", np.array(texts, object))


def test_prices_are_values_to_learn(tmp_path):
    rows = [f'{number},"${number + 1:,}.50"' for number in range(0, 6000, 100)]
    data = load_data(write(tmp_path / "a.csv", "x,price", rows), labels="price")
    assert data.task == "regression" and data.class_names is None
    assert sorted([*data.train.y(), *data.validation.y(), *data.test.y()])[-1] == 5901.5
    assert any(note.startswith("'price': '$") for note in data.notes)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv"])
def test_labels_that_do_not_print_as_numbers_stay_texts(tmp_path, ending):
    labels = ["01", "1", "002", "10"] * 20
    content = "\n".join([" label ,x", *(f"{label},{number}" for number, label in enumerate(labels))])
    path = tmp_path / f"a.{ending}"
    content = content.replace(",", "\t") if ending == "tsv" else content
    path.write_bytes(gzip.compress(content.encode()) if ending == "csv.gz" else content.encode())
    data = load_data(path)
    assert data.class_names == ("002", "01", "1", "10")
    assert np.bincount(data.train.y()).min() > 0 and data.preprocessing.features == ("x",)
    assert any("the labels in 'label' are texts, since '0" in note for note in data.notes)
    again = load_data(path, preprocessing=data.preprocessing)
    np.testing.assert_array_equal(again.test.y(), data.test.y())
    values = load_data(path, task="regression")
    assert set(values.train.y()) == {1, 2, 10}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([f"{number:05}" for number in range(60)] * 4, tuple(f"{number:05}" for number in range(60))),
        (["-1", "+1"] * 40, ("+1", "-1")),
        (["0", "10", "9"] * 30, ("0", "9", "10")),
        ([f"0{number / 8:.3f}" for number in range(60)], None),
    ],
)
def test_zeros_and_signs_decide_only_about_whole_numbers(tmp_path, labels, names):
    data = load_data(write(tmp_path / "a.csv", "x,label", [f"{n},{label}" for n, label in enumerate(labels)]))
    assert data.class_names == names


def test_the_lines_for_devices_encode_what_the_front_end_does(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    lines = page.rpartition("```python\n")[2].partition("```")[0].partition("\ndef value(")[0]
    raw = rows_of(
        zip=np.array([1.0, 2.0, np.nan, 2.5, 1.0]),
        city=np.array(["b", " a ", "", None, "b"], object),
        age=np.array([1.0, np.nan, 3.0, 8.0, 2.0]),
    )
    table, _ = Table(categories=("zip",)).fitted(raw)
    assert table.features[:4] == ("zip=1", "zip=2", "zip=2.5", "zip=None")
    (tmp_path / "saved_models" / "people").mkdir(parents=True)
    settings = json.dumps({"preprocessing": table.to_dict()})
    (tmp_path / "saved_models" / "people" / "data.json").write_text(settings)
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(lines, made)
    for row, expected in zip(raw, table.stored(raw), strict=True):
        plain = {name: row[name].item() if hasattr(row[name], "item") else row[name] for name in raw.dtype.names}
        np.testing.assert_allclose(made["features"](plain), expected, atol=1e-6)
        plain = {name: None if value != value else value for name, value in plain.items()}
        np.testing.assert_allclose(made["features"](plain), expected, atol=1e-6)


def test_a_missing_pyarrow_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"Cannot read the table .* without pyarrow \(.*pip install pyarrow\."):
        load_data(table)


def test_the_reason_why_no_column_is_left(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"label": {n % 2}, "v": [1, 2]}}\n' for n in range(40)))
    with pytest.raises(DataError, match=r"beside 'label', got none \('v' left out: list<.*> is no number.*\); add"):
        load_data(path)


@pytest.mark.parametrize(
    ("texts", "are"),
    [
        (["1/2/2024", "31/12/2024", None], True),
        (["12/31/2024", "1/1/1999"], True),
        (["31.1.2024", "1.2.2024"], True),
        (["2024-01-02", "2024-12-31", "NA"], True),
        (["2024-01-02T10:30:00Z", "2024-01-02 10:30", "2024/1/2 1:30:00.5+02:00"], True),
        (["1/2/2024", "soon"], False),
        (["13/13/2024"], False),
        (["2024-13-01"], False),
        (["2024-00-01"], False),
        (["32/1/2024"], False),
        (["1/2-2024"], False),
        (["1/2/24", "3/4"], False),  # sizes and scores look like that
        (["10-20", "555-1234"], False),
        ([None, "NA"], False),
    ],
)
def test_dates_by_a_strict_rule(texts, are):
    assert are_dates(texts) is are


def test_columns_of_dates_are_left_out_with_a_note(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{1 + n % 12}/{1 + n % 3}/2024,{n},{n % 2}" for n in range(48)]
    path.write_text("day,size,label\n" + "\n".join(rows))
    data = load_data(path)
    assert data.preprocessing.features == ("size",)
    assert any("'day' left out: its texts are dates, such as " in note for note in data.notes)
    kept = load_data(path, preprocessing=tfopt.inputs.Table(categories=("day",))).preprocessing.features
    assert "day=1/1/2024" in kept


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("task", [None, "classification"])
@pytest.mark.parametrize("column", ["a", "text"])
def test_booleans_are_classes(tmp_path, ending, task, column):
    rows = [{column: number if column == "a" else f"film {number}", "label": number % 3 == 0} for number in range(30)]
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [(column, "label"), *((row[column], str(row["label"]).lower()) for row in rows)]
        path.write_text("".join(f"{first}{',' if ending == '.csv' else chr(9)}{last}\n" for first, last in lines))
    data = load_data(path, task=task)
    assert data.class_names == ("False", "True") and data.task == "classification"
    assert sum(int(part.labels.sum()) for part in (data.train, data.validation, data.test)) == 10


@pytest.mark.parametrize(
    ("stated", "left_out"),
    [
        ({"index_columns": ["__index_level_0__"]}, ["__index_level_0__"]),
        ({"index_columns": ["id"]}, ["id", "__index_level_0__"]),
        (
            {"index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 30, "step": 1}]},
            ["__index_level_0__"],
        ),
        (None, ["__index_level_0__"]),
    ],
)
def test_the_index_of_a_data_frame_is_no_feature(tmp_path, stated, left_out):
    number = list(range(30))
    table = pa.table({"__index_level_0__": number, "id": number, "a": number, "label": ["x", "y"] * 15})
    parquet.write_table(
        table.replace_schema_metadata({b"pandas": json.dumps(stated).encode()} if stated else None),
        tmp_path / "a.parquet",
    )
    data = load_data(tmp_path / "a.parquet")
    assert list(data.preprocessing.features) == [
        name for name in ("__index_level_0__", "id", "a") if name not in left_out
    ]
    (note,) = (note for note in data.notes if "pandas" in note)
    assert sorted(note.rpartition(": ")[2].split(", ")) == sorted(left_out)
    assert load_data(tmp_path / "a.parquet", labels="id").task == "classification"  # it is needed
