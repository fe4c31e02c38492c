"""Settings of front ends on the command line."""

import re

import numpy as np
import pytest

from tfopt.data import load_data
from tfopt.data.front_end_settings import SETTINGS, front_end_of, require_read
from tfopt.data.sound import Sound
from tfopt.data.table import Table
from tfopt.data.text import Text
from tfopt.errors import DataError


@pytest.fixture
def sources(tmp_path):
    """Paths of a table, and of folders of recordings, texts and images."""
    (tmp_path / "rows.csv").write_text("text,label\na,0\n")
    found = {"table": tmp_path / "rows.csv"}
    for name, suffix in (("sound", "wav"), ("text", "txt"), ("images", "png")):
        for label in "ab":
            (tmp_path / name / label).mkdir(parents=True)
            (tmp_path / name / label / f"1.{suffix}").write_bytes(b"")
        found[name] = tmp_path / name
    return found


@pytest.mark.parametrize(
    ("texts", "source", "expected"),
    [
        (["ngrams=2", "length=40"], "table", Text(ngrams=2, length=40)),
        (["length=null"], "text", Text()),
        (["seconds=1", "features=mfcc", "rate=8000"], "sound", Sound(seconds=1.0, features="mfcc", rate=8000)),
        (["categories=zip, city", "most_categories=3"], "table", Table(categories=("zip", "city"), most_categories=3)),
    ],
)
def test_settings_make_a_front_end(sources, texts, source, expected):
    assert front_end_of(texts, sources[source]) == expected


@pytest.mark.parametrize(
    ("texts", "source", "said"),
    [
        (["ngram=2"], "table", "as SETTING=VALUE, .* got 'ngram=2'"),
        (["ngrams"], "table", "as SETTING=VALUE, .* got 'ngrams'"),
        (["column=review"], "table", "got 'column=review'"),
        (["ngrams=2", "mels=3"], "table", "fields of one kind .* got ngrams, mels"),
        (["ngrams=two"], "table", "ngrams as a whole number for --input, got 'two'"),
        (["length=true"], "table", "length as a whole number or null for --input, got 'true'"),
        (["most_categories=2.5"], "table", "most_categories as a whole number"),
        (["seconds=long"], "sound", "seconds as a number or null"),
        (["ngrams=0"], "table", "ngrams of at least 1, got 0"),
        (["features=mel"], "sound", 'features "log-mel" or "mfcc", got \'mel\''),
    ],
)
def test_a_wrong_setting_is_an_error_that_lists_all(sources, texts, source, said):
    with pytest.raises(DataError, match=said) as error:
        front_end_of(texts, sources[source])
    for name in (name for names in SETTINGS.values() for name in names):
        assert re.search(rf"\b{name}\b", str(error.value))


@pytest.mark.parametrize(
    ("text", "source", "said"),
    [
        ("ngrams=2", "images", "Expected texts for --input ngrams, got images or numbers in"),
        ("ngrams=2", "sound", "Expected texts for --input ngrams, got recordings in"),
        ("mels=20", "text", "Expected recordings for --input mels, got texts in"),
        ("mels=20", "table", "Expected recordings for --input mels, got the table"),
    ],
)
def test_settings_for_other_samples_are_an_error(sources, text, source, said):
    with pytest.raises(DataError, match=said):
        front_end_of([text], sources[source])


def test_a_front_end_that_read_nothing_is_an_error():
    numbers = load_data((np.zeros((20, 3), "float32"), np.arange(20) % 2)).preprocessing
    with pytest.raises(DataError, match=r"Expected texts for --input, got .*; leave it out\."):
        require_read(numbers, Text())
    require_read(Text(vocabulary=("", "[UNK]")), Text())
