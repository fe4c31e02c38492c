"""Decoded images in a folder between runs: the same samples, and no stale ones."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tfopt.data import image_files, load_data
from tfopt.data.stored import ROWS, StoredArray
from tfopt.errors import DataError


@pytest.fixture
def photos(tmp_path, write_photos):
    write_photos(tmp_path / "photos", 10)
    return tmp_path / "photos"


def values(data):
    return [np.asarray(part.inputs[:]) for part in (data.train, data.validation, data.test)]


def decoded(monkeypatch):
    """Return a list that grows by each file that is decoded."""
    seen, decode = [], image_files.decode_file
    monkeypatch.setattr(image_files, "decode_file", lambda file, **given: (seen.append(file), decode(file, **given))[1])
    return seen


def test_a_second_run_decodes_nothing(photos, tmp_path, monkeypatch):
    plain, seen = load_data(photos), decoded(monkeypatch)
    first = load_data(photos, cache=tmp_path / "kept")
    assert len(seen) == 20 and any("are kept in" in note for note in first.notes)
    again = load_data(photos, cache=tmp_path / "kept", seed=0)
    assert len(seen) == 20 and isinstance(again.train.inputs, StoredArray)
    assert first.fingerprint == again.fingerprint and again.preprocessing == plain.preprocessing
    for ours, theirs in zip(values(again), values(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = load_data(photos, cache=tmp_path / "kept", seed=5)  # another split of the same files
    assert len(seen) == 20
    for ours, theirs in zip(values(other), values(load_data(photos, seed=5)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_folders_whose_files_look_alike_are_two(tmp_path):
    """Names, sizes and times of change are the same; the pixels are not."""
    for value in (10, 200):
        for number in range(20):
            file = tmp_path / f"photos{value}" / "ab"[number % 2] / f"{number}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file)
            os.utime(file, ns=(0, 0))
    for value in (10, 200):
        data = load_data(tmp_path / f"photos{value}", cache=tmp_path / "kept")
        assert all((each == value).all() for each in values(data))


def test_other_files_or_forms_are_decoded_again(photos, tmp_path, monkeypatch):
    load_data(photos, cache=tmp_path / "kept")
    seen = decoded(monkeypatch)
    load_data(photos, cache=tmp_path / "kept", size=(4, 4))
    assert len(seen) == 20
    file = photos / "dark" / "3.png"
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file)
    os.utime(file, ns=(0, 0))
    data = load_data(photos, cache=tmp_path / "kept")
    assert len(seen) == 40 and any((each == 7).all() for part in values(data) for each in part)
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_what_is_not_whole_is_made_again(photos, tmp_path):
    load_data(photos, cache=tmp_path / "kept")
    (entry,) = (tmp_path / "kept").iterdir()
    whole = (entry / ROWS).read_bytes()
    (entry / ROWS).write_bytes(whole[:-1])
    load_data(photos, cache=tmp_path / "kept")
    assert (entry / ROWS).read_bytes() == whole and list((tmp_path / "kept").iterdir()) == [entry]


def test_failures_leave_nothing(photos, tmp_path):
    (photos / "dark" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png"):
        load_data(photos, cache=tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())
    with pytest.raises(DataError, match="a folder for decoded images to write to"):
        load_data(photos, cache=photos / "dark" / "4.png" / "kept")
    with pytest.raises(DataError, match="a folder of images for cache=, got scikit-learn"):
        load_data("digits", cache=tmp_path / "kept")


def test_two_runs_at_once_decode_once(photos, tmp_path, monkeypatch):
    """The other one waits; what a run that was killed has left is removed."""
    (tmp_path / "kept" / "unfinished_1").mkdir(parents=True)
    seen, decode = [], image_files.decode_file
    monkeypatch.setattr(
        image_files,
        "decode_file",
        lambda file, **given: (time.sleep(0.02), seen.append(file), decode(file, **given))[2],
    )
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: load_data(photos, cache=tmp_path / "kept"), range(2)))
    assert len(seen) == 20 and both[0].fingerprint == both[1].fingerprint
    assert len(list((tmp_path / "kept").iterdir())) == 1
