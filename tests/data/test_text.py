"""Texts as token ids: the reference is keras.layers.TextVectorization, and vocabularies counted by hand."""

import gzip
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.data import Preprocessing, Text, load_data
from tfopt.data.beside import stated_beside
from tfopt.data.for_model import data_for, with_or_without_labels
from tfopt.errors import DataError
from tfopt.evaluate.verify import verify_file
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.export import export_tflite


def texts_of(*texts):
    return np.array([*texts, None], object)[:-1]


@pytest.fixture
def reviews(tmp_path):
    """Forty texts: "good" and "bad" by their label, and a word that only one text has."""
    rows = [f'"Film {n}, so {word}!",{word}' for n in range(20) for word in ("good", "bad")]
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_ids_are_those_of_keras(ngrams):
    """Also for letters and spaces outside of ASCII, punctuation inside words, and ties in the vocabulary."""
    drawn = np.random.default_rng(0).choice(list("abcABC.,'!? \t\n-éÉßÄ中\u00a0\u2003\x0bİ"), (200, 40))
    texts = texts_of(*("".join(row) + " end" for row in drawn))
    text, _ = Text(ngrams=ngrams, vocabulary_size=150).fitted(texts)
    layer = keras.layers.TextVectorization(
        150, output_sequence_length=text.length, ngrams=ngrams if ngrams > 1 else None
    )
    layer.adapt(list(texts))
    assert text.vocabulary == tuple(layer.get_vocabulary())
    np.testing.assert_array_equal(text.stored(texts), layer(list(texts)))


def test_a_vocabulary_by_hand():
    text, notes = Text(vocabulary_size=4).fitted(texts_of("b a, B!", "A b c", "d"))
    assert text.vocabulary == ("", "[UNK]", "b", "a") and text.length == 3
    np.testing.assert_array_equal(text.stored(texts_of("a x b a", "c")), [[3, 1, 2], [1, 0, 0]])
    assert "the 2 most frequent of 4 tokens" in notes[0] and "texts of 3 tokens: 100 %" in notes[1]


def test_texts_of_punctuation_alone():
    text, notes = Text().fitted(texts_of("a b", "!!!", "?"))
    assert "2 training texts of punctuation alone" in notes[0] and text.stored(texts_of("!!!")).tolist() == [[0, 0]]
    with pytest.raises(DataError, match="words in the training texts, got punctuation alone, such as '!!!'"):
        Text().fitted(texts_of("!!!", "..."))


def test_the_length_holds_99_percent():
    text, _ = Text().fitted(texts_of(*["a b c"] * 99, "a " * 50))
    assert text.length == 3
    assert Text().fitted(texts_of("a " * 5000))[0].length == 512
    assert Text(length=7).fitted(texts_of("a b"))[0].length == 7


def test_the_vocabulary_is_of_the_training_part_alone(tmp_path):
    """A word that every part has for itself enters the vocabulary from the training part only."""
    rows = [f"word{number} same,{number % 2}" for number in range(100)]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(rows))
    data = load_data(tmp_path / "a.csv")
    assert len(data.preprocessing.vocabulary) == 2 + 1 + len(data.train) == 2 + 1 + 64
    assert data.train.x().min() > 1  # no unknown words
    for part in (data.validation, data.test):
        assert (part.x()[:, 0] == 1).all()


def test_a_table_of_texts(reviews):
    data = load_data(reviews)
    assert data.class_names == ("bad", "good") and data.task == "classification"
    assert data.input_shape == (4,) and data.train.x().dtype == np.int32
    good = data.preprocessing.vocabulary.index("good")
    np.testing.assert_array_equal((data.test.x() == good).any(axis=1), data.test.y() == 1)
    x, y = next(iter(data.batches("train", 8)))
    assert x.dtype == "int32" and x.shape == (8, 4) and y.shape == (8,)
    assert "texts as int32 ids of 4 tokens" in data.describe()[3]


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv", ".jsonl", ".parquet"])
def test_tables_of_every_kind_are_the_same(reviews, ending):
    import pyarrow
    from pyarrow import csv, parquet

    table = csv.read_csv(reviews)
    path = reviews.with_name("other" + ending)
    if ending == ".csv.gz":
        path.write_bytes(gzip.compress(reviews.read_bytes()))
    elif ending == ".tsv":
        path.write_text(reviews.read_text().replace('",', '"\t').replace("text,", "text\t"))
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        parquet.write_table(pyarrow.table({name: table[name].dictionary_encode() for name in table.column_names}), path)
    assert load_data(path).fingerprint == load_data(reviews).fingerprint


def test_columns_have_any_name_and_a_column_names_the_parts(tmp_path):
    rows = [f"{part},{n} x,{n % 3}" for part, count in (("train", 30), ("Test", 6)) for n in range(count)]
    (tmp_path / "a.csv").write_text("split,review,stars\n" + "\n".join(rows))
    data = load_data(tmp_path / "a.csv", text="review", labels="stars")
    assert (len(data.test), data.class_names, data.preprocessing.column) == (6, ("0", "1", "2"), "review")
    assert any("the integers in 'stars' are taken as classes: 0, 1, 2" in note for note in data.notes)
    with pytest.raises(DataError, match=r"column 'text' in .*a\.csv, got split, review, stars; .*text="):
        load_data(tmp_path / "a.csv", labels="stars", preprocessing=Text())
    with pytest.raises(DataError, match=r"column 'label' in .*labels="):
        load_data(tmp_path / "a.csv", text="review")


def test_texts_in_arrays():
    data = load_data((texts_of(*["a b", "c d"] * 20), np.arange(40) % 2), preprocessing=Text())
    assert data.input_shape == (2,)
    assert set(data.preprocessing.vocabulary) == {"", "[UNK]", "a", "b", "c", "d"}


def test_a_folder_of_texts(tmp_path, reviews):
    """It has no text of another kind, and a README beside the class folders does not count."""
    for number in range(20):
        for word in ("good", "bad"):
            (tmp_path / "texts" / word).mkdir(parents=True, exist_ok=True)
            (tmp_path / "texts" / word / f"{number}.txt").write_text(
                f"\ufeffFilm {number}, so {word}!", encoding="utf-8"
            )
    (tmp_path / "texts" / "README.md").write_text("about")
    data, same = load_data(tmp_path / "texts"), load_data(reviews)
    assert data.class_names == same.class_names and data.source == "text folder texts"
    assert data.input_shape == (4,)
    assert {"good", "bad", "so", "film"} <= set(data.preprocessing.vocabulary)
    assert any("README.md" in note for note in data.notes)
    (tmp_path / "texts" / "bad" / "3.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"text in UTF-8, got .*3\.txt"):
        load_data(tmp_path / "texts")
    (tmp_path / "texts" / "bad" / "3.txt").write_text(" ")
    with pytest.raises(DataError, match=r"words in .*3\.txt"):
        load_data(tmp_path / "texts")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (",y", "1 empty text in .*, the first is row 20"),
        ('"  ",y', "1 empty text in .*, the first is row 20"),
        ("b,", "1 row without 'label', the first is row 20"),
        ("b,y,z", "readable table"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, problem):
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(["a b,x", "c,y"] * 10 + [row]) + "\n")
    with pytest.raises(DataError, match=problem):
        load_data(tmp_path / "a.csv")


def test_other_bad_input(tmp_path, reviews):
    with pytest.raises(DataError, match="begins with"):
        Text(vocabulary=("a", "b"))
    with pytest.raises(DataError, match="'a' twice"):
        Text(vocabulary=("", "[UNK]", "a", "a"))
    with pytest.raises(DataError, match="vocabulary_size of at least 3"):
        Text(vocabulary_size=2)
    with pytest.raises(DataError, match="no size or color for texts"):
        load_data(reviews, preprocessing=Text(), size=(3, 3))
    with pytest.raises(DataError, match="for text= and labels="):
        load_data("digits", text="text")
    with pytest.raises(DataError, match="Expected images for preprocessing 'unit'"):
        load_data(reviews).with_preprocessing("unit")
    (tmp_path / "twice.csv").write_text("text,label,label\na,b,c\n")
    with pytest.raises(DataError, match="label several times"):
        load_data(tmp_path / "twice.csv")
    (tmp_path / "none.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="rows in"):
        load_data(tmp_path / "none.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="readable table"):
        load_data(tmp_path / "bad.parquet")


def model_for(data):
    layers = [
        keras.layers.Embedding(len(data.preprocessing.vocabulary), 8),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(data.num_classes, activation="softmax"),
    ]
    return keras.Sequential([keras.Input(data.input_shape, dtype="int32"), *layers])


@pytest.fixture
def result(reviews, tmp_path):
    data = load_data(reviews)
    model = model_for(data)
    return tfopt.optimize(model, tfopt.FineTune(epochs=1), data, quiet=True), data, tmp_path / "result"


def test_a_result_has_its_vocabulary(result, reviews, capsys):
    """Beside the model and in the file; other texts are fed with it, in the same classes."""
    made, data, folder = result
    made.save(folder)
    lines = (folder / "vocabulary.txt").read_text().split("\n")
    assert tuple(lines[:-1]) == data.preprocessing.vocabulary
    for place in (folder / "model.tflite", folder, made.lite):
        assert stated_beside(place) == data.preprocessing
    other = reviews.with_name("other.csv")
    other.write_text("text,label\n" + "so good,good\n" * 10)
    fed = data_for(made.model, other, beside=[folder / "model.keras"])
    assert fed.class_names == ("bad", "good") and fed.input_shape == (4,) and set(fed.test.y()) == {1}
    numbers = [data.preprocessing.vocabulary.index(word) for word in ("so", "good")]
    np.testing.assert_array_equal(fed.train.x()[0], [*numbers, 0, 0])
    assert "as data.json beside" in capsys.readouterr().err
    assert "no data.json beside" in data_for(made.model, reviews).notes[-1]
    other.write_text("text,label\nso good,great\n")
    with pytest.raises(DataError, match="labels bad, good in 'label', also got great"):
        data_for(made.model, other, beside=[folder])


FEW = texts_of(*["so good", "so bad", "bad film", "good film"] * 10)
CLASSES = np.arange(40) % 2


@pytest.fixture
def stated(tmp_path):
    """A place beside a data.json that states a Text, and that Text."""
    text = Text(vocabulary=("", "[UNK]", "good", "so"), length=3)
    (tmp_path / "data.json").write_text(json.dumps({"preprocessing": text.to_dict()}))
    for name, content in text.files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path / "model.keras", text


def small_model():
    given = keras.Input((3,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(given))
    return keras.Model(given, keras.layers.Dense(2, "softmax")(pooled))


def as_npz(path, *arrays):
    np.savez(path, **dict(zip(("x", "y"), arrays, strict=False)))
    return path


@pytest.mark.parametrize(
    "source",
    [
        lambda path: (FEW, CLASSES),
        lambda path: (list(FEW), CLASSES),
        lambda path: (FEW.astype(str), CLASSES),
        lambda path: ((FEW, CLASSES), (FEW, CLASSES)),
        lambda path: {"train": (FEW, CLASSES), "test": (FEW, CLASSES)},
        lambda path: tf.data.Dataset.from_tensor_slices((list(FEW), CLASSES)).batch(8),
        lambda path: as_npz(path / "texts.npz", FEW.astype(str), CLASSES),
    ],
    ids=["objects", "list", "strings", "pairs", "dict", "tf.data", "npz"],
)
def test_arrays_of_texts_are_fed_as_stated(stated, source, tmp_path):
    place, text = stated
    data = data_for(small_model(), source(tmp_path), beside=[place], quiet=True)
    assert data.preprocessing == text and data.notes[-1].endswith(f"as data.json beside {place} says")
    # "so good" is 3, 2; "so bad" 3, 1; "bad film" 1, 1; "good film" 2, 1.
    assert set(map(tuple, data.train.x().tolist())) == {(3, 2, 0), (3, 1, 0), (1, 1, 0), (2, 1, 0)}


@pytest.mark.parametrize("source", [lambda path: FEW, lambda path: as_npz(path / "a.npz", FEW.astype(str))])
def test_texts_without_labels_are_fed_as_stated(stated, source, tmp_path):
    place, text = stated
    data = with_or_without_labels(small_model(), source(tmp_path), beside=[place], quiet=True)
    assert (data.labels, data.preprocessing, data.input_shape) == ("none", text, (3,))
    asked = Text(vocabulary=("", "[UNK]", "film"), length=3)
    data = with_or_without_labels(small_model(), source(tmp_path), preprocessing=asked, beside=[place], quiet=True)
    assert data.preprocessing == asked and "texts are fed as asked, instead of as texts" in data.notes[-1]


def test_a_front_end_that_is_asked_for_is_used(stated):
    place, text = stated
    asked = Text(vocabulary=("", "[UNK]", "film"), length=3)
    with pytest.raises(DataError, match=r"preprocessing=tfopt\.inputs\.Text\(\) does"):
        data_for(small_model(), (FEW, CLASSES), quiet=True)
    for places, end in ((), "texts are fed as asked"), ([place], f"as data.json beside {place} says"):
        data = data_for(small_model(), (FEW, CLASSES), preprocessing=asked, beside=places, quiet=True)
        assert data.preprocessing == asked and data.notes[-1].endswith(end)
    model = small_model()
    lite = export_tflite(model, None, FLOAT, representative_data=data)
    assert verify_file(model, lite, (FEW, CLASSES), preprocessing=asked).samples == 8
    with pytest.raises(DataError, match="Expected a Preprocessing for images and numbers, got a Text"):
        Preprocessing.of(text)


def test_another_vocabulary_is_refused(result):
    made, _, folder = result
    made.save(folder)
    (folder / "vocabulary.txt").write_text("\n[UNK]\nother\n")
    with pytest.raises(DataError, match=r"vocabulary\.txt that the model was trained with"):
        stated_beside(folder)
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(DataError, match=r"vocabulary\.txt beside it, which is missing"):
        stated_beside(folder)


def test_a_model_with_fewer_words_is_refused(reviews):
    data = load_data(reviews)
    size = len(data.preprocessing.vocabulary)
    layers = [keras.layers.Embedding(size - 1, 4), keras.layers.Flatten(), keras.layers.Dense(2)]
    with pytest.raises(DataError, match=rf"vocabulary has {size} entries, .* a table of {size - 1} rows"):
        tfopt.optimize(keras.Sequential([keras.Input((4,), dtype="int32"), *layers]), tfopt.FineTune(), data)


def test_a_file_says_it_in_the_form_of_its_schema(result):
    """An associated file of the input with type 5, VOCABULARY in metadata_schema.fbs."""
    import io
    import zipfile

    made, data, _ = result
    with zipfile.ZipFile(io.BytesIO(made.lite.data)) as archive:
        assert set(archive.namelist()) == {"labels.txt", "vocabulary.txt", "preprocessing.json"}
        assert archive.read("vocabulary.txt").decode().split("\n")[:2] == ["", "[UNK]"]
    assert made.lite.labels == ("bad", "good")
    ids = data.test.x()
    assert made.lite.inputs[0].dtype == "int32"
    np.testing.assert_allclose(made.lite.predict(ids), made.model.predict(ids, verbose=0), atol=0.02)


WORDS = ["käse good", "bad 中", "good"] * 13


def stream_of(words, size=None, drop=False):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((words, np.arange(len(words)) % 2))
    return data.batch(size, drop_remainder=drop) if size else data


class Words(keras.utils.PyDataset):
    """Batches of NumPy's strings, of another length in each."""

    def __len__(self):
        return 13

    def __getitem__(self, index):
        return np.array(WORDS[3 * index : 3 * index + 3]), np.arange(3) % 2 ^ index % 2


@pytest.mark.parametrize(
    "source",
    [
        lambda: stream_of(WORDS),
        lambda: stream_of(WORDS, 5),
        lambda: stream_of(WORDS, 13, drop=True),
        lambda: (np.array([word.encode() for word in WORDS]), np.arange(39) % 2),
        lambda: (texts_of(*(word.encode() for word in WORDS)), np.arange(39) % 2),
        Words,
    ],
    ids=["samples", "batches", "whole batches", "bytes", "objects", "PyDataset"],
)
def test_bytes_are_texts_in_utf8(source):
    data, expected = (
        load_data(each, preprocessing=Text()) for each in (source(), (texts_of(*WORDS), np.arange(39) % 2))
    )
    assert data.preprocessing.vocabulary == expected.preprocessing.vocabulary
    assert {"käse", "中"} < set(data.preprocessing.vocabulary)
    np.testing.assert_array_equal(data.test.x(), expected.test.x())


@pytest.mark.parametrize("size", [None, 7])
def test_a_text_in_another_encoding_is_named(size):
    words = [word.encode() for word in WORDS]
    words[30] = "käse".encode("latin-1")
    with pytest.raises(DataError, match=r"train inputs as texts in UTF-8, got other bytes in sample 30: b'k\\xe4se'"):
        load_data(stream_of(words, size), preprocessing=Text())


def test_texts_without_a_front_end_and_by_name():
    with pytest.raises(
        DataError, match=r"inputs as numbers, got dtype object; .*preprocessing=tfopt\.inputs\.Text\(\)"
    ):
        load_data(stream_of(WORDS))
    with pytest.raises(DataError, match="Expected texts as one array, got review by name"):
        load_data(({"review": texts_of(*WORDS)}, np.arange(39) % 2), preprocessing=Text())


def test_a_model_that_takes_strings_is_told_what_to_do():
    import tensorflow as tf

    layer = keras.layers.TextVectorization(output_sequence_length=2, split=lambda texts: tf.strings.split(texts))
    layer.adapt(WORDS)
    behind = [keras.layers.Embedding(6, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((), dtype="string"), layer, *behind])
    pair = (texts_of(*WORDS), np.arange(39) % 2)
    with pytest.raises(tfopt.errors.ModelError, match=r"takes numbers, got strings .*Text\(vocabulary=layer\.get_voc"):
        tfopt.optimize(model, [tfopt.FineTune()], pair, quiet=True)
    advised = load_data(pair, preprocessing=Text(vocabulary=layer.get_vocabulary(), length=2))
    rest = keras.Sequential([keras.Input((2,), dtype="int32"), *behind])
    np.testing.assert_allclose(rest(advised.test.x()), model(tf.constant(_texts_back(layer, advised))))


def _texts_back(layer, data):
    """The texts of the test part, from the vocabulary of the layer: another way back."""
    names = layer.get_vocabulary()
    return [" ".join(names[number] for number in row if number) for row in data.test.x()]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_columns_of_texts_are_texts_as_they_stand(tmp_path, ending):
    mark = "\t" if ending == ".tsv" else ","
    values = ["007", "NA", "1.50", "null", "nan"] * 8
    path = tmp_path / f"a{ending}"
    path.write_text(
        "\n".join(
            mark.join(row) for row in [("text", "label", "more"), *zip(values, "ab" * 20, ["NA"] * 40, strict=True)]
        )
    )
    data = load_data(path)
    assert set(data.preprocessing.vocabulary) == {"", "[UNK]", "007", "na", "150", "null", "nan"}
    path.write_text(path.read_text().replace("text", "code", 1))
    np.testing.assert_array_equal(load_data(path, text="code").train.x(), data.train.x())
    path.write_text(f"text{mark}label\n" + "\n".join(f"{number}{mark}{'ab'[number % 2]}" for number in range(40)))
    assert load_data(path).input_shape == (1,)
    path.write_text(path.read_text().replace("\n3" + mark, "\n" + mark, 1))
    with pytest.raises(DataError, match="got 1 empty text in 'text', the first is row 3"):
        load_data(path)


def test_most_tokens_unknown_are_a_note():
    """Of 2 + 3 tokens, 4 are unknown; the fourth token of a text is cut."""
    text = Text(vocabulary=("", "[UNK]", "a", "b"), length=3)
    parts = [texts_of("a b"), texts_of("a x"), texts_of("x y z a")]
    assert text.notes(parts)[0].startswith("80 % of the tokens in the validation and test texts are unknown")
    assert text.notes([texts_of("x"), texts_of("a x"), texts_of("b y")]) == ()  # half of them are not most
    assert "languages without blanks" in text.notes([texts_of("我喜欢这部电影")])[0]
    notes = load_data((texts_of(*(f"电影{n}好" for n in range(40))), np.arange(40) % 2), preprocessing=Text()).notes
    assert any(note.startswith("100 % of the tokens in the validation and test texts are unknown") for note in notes)
