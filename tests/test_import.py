"""Importing tfopt changes nothing in a process until TensorFlow is needed, and then as little as possible."""

import json
import os
import subprocess
import sys

import pytest

import tfopt

LIGHT = """
import sys
import tfopt
{statement}
heavy = {{"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert", "sklearn"}}
found = sorted(heavy & set(sys.modules))
assert not found, found
"""

# TensorFlow and its parts set environment variables, so they are imported first.
RUN = """
import json, os, sys
import ai_edge_litert.interpreter, h5py, keras, sklearn, tensorflow as tf
before = dict(os.environ)
if {touch}:
    tf.keras.layers
import numpy as np
import tfopt

x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
y = (x[:, 0] > 0).astype("int64")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])
recipe = tfopt.Recipe(
    stages=(
        tfopt.Prune(schedule="one-shot", epochs=0),
        tfopt.Cluster(number_of_clusters=4, epochs=1, min_steps=0),
        tfopt.Quantize(epochs=1, min_steps=0),
    )
)
result = tfopt.optimize(model, recipe, (x, y), quiet=True)
changed = {{k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}}
dense = tf.keras.layers.Dense(1)
print(json.dumps([sorted(changed), tf.keras.__version__, isinstance(result.model, keras.Model),
                  isinstance(dense, keras.layers.Layer), "TF_USE_LEGACY_KERAS" in os.environ]))
"""


def python(code, **variables):
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"} | variables
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize(
    "statement",
    [
        "dir(tfopt)",
        "tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize())).to_json()",
        "tfopt.Prune, tfopt.Export, tfopt.Training, tfopt.RecipeError, tfopt.Preprocessing",
        "from tfopt.cli import main; main(['--help'], standalone_mode=False)",
        "from tfopt.cli import main; main(['run', '--help'], standalone_mode=False)",
    ],
)
def test_no_tensorflow_without_need(statement):
    done = python(LIGHT.format(statement=statement))
    assert done.returncode == 0, done.stderr


def test_a_folder_that_is_not_empty_is_refused_without_tensorflow(tmp_path):
    (tmp_path / "recipe.json").write_text(tfopt.Recipe(stages=()).to_json())
    arguments = ["run", str(tmp_path / "recipe.json"), "--out", str(tmp_path)]
    refused = f"""
from tfopt.cli import main
try:
    main({arguments})
except SystemExit as ended:
    assert ended.code == 2
"""
    done = python(LIGHT.format(statement=refused))
    assert done.returncode == 0, done.stderr
    assert "is not empty" in done.stderr


def test_environment_and_tf_keras_stay_as_they_were():
    done = python(RUN.format(touch=False))
    assert done.returncode == 0, done.stderr
    changed, version, returns_keras3, dense_is_keras3, switched = json.loads(done.stdout.splitlines()[-1])
    assert changed == []
    assert version.startswith("3.")
    assert returns_keras3
    assert dense_is_keras3
    assert not switched


@pytest.mark.parametrize("name", tfopt.__all__)
def test_every_public_name_is_what_it_says(name):
    """Also on the second access: a submodule of the same name would replace it after the first."""
    first = getattr(tfopt, name)
    assert callable(first)
    assert getattr(tfopt, name) is first
    assert first.__name__ == name
    assert name in dir(tfopt)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = tfopt.optimise
