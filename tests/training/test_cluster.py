"""TF_CONFIG, and what is wrong with it."""

import json

import pytest

from tfopt.errors import RecipeError, TfoptError
from tfopt.training.cluster import Cluster, cluster_from
from tfopt.training.distribution import distributed, own_folder

TWO = ["a:1", "b:1"]


def config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (config({"worker": TWO}), Cluster(2, 0)),
        (config({"worker": TWO}, index=1), Cluster(2, 1)),
        (config({"chief": ["c:1"], "worker": TWO}, "chief"), Cluster(3, 0)),
        (config({"chief": ["c:1"], "worker": TWO}, index=1), Cluster(3, 2)),
    ],
)
def test_workers_are_numbered_after_the_chief(text, expected):
    assert cluster_from(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not set"),
        ("{", "it is no JSON with cluster and task"),
        ('{"cluster": {}}', "KeyError"),
        (config({"worker": TWO, "ps": ["p:1"]}), "its cluster has ps"),
        (config([TWO]), "its cluster has list"),
        (config({"worker": TWO}, index=2), "its task has the index 2, and its cluster 2 of worker"),
        (config({"worker": TWO}, "chief"), "its task is 'chief'"),
        (config({"worker": ["a:1", "b"]}), "no port"),
        (config({"worker": ["a:1"]}), "needs two workers or more"),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(TfoptError, match=words):
        cluster_from(text)


def test_an_unknown_way_is_refused():
    with pytest.raises(RecipeError, match="Expected distribute to be 'mirrored' or 'multiworker', got 'horovod'"):
        distributed("horovod").__enter__()


def test_mirrored_needs_devices():
    with pytest.raises(RecipeError, match="two devices or more; TensorFlow sees one"):
        distributed("mirrored").__enter__()


def test_other_workers_write_to_a_temporary_folder(monkeypatch, tmp_path):
    for index in (0, 1):
        monkeypatch.setenv("TF_CONFIG", config({"worker": TWO}, index=index))
        with own_folder("multiworker", tmp_path) as own:
            assert (own == tmp_path) == (index == 0)
        with own_folder(None, tmp_path) as own:
            assert own == tmp_path
