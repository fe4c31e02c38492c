"""Nothing in a model file runs without the user's word: files made to attack, all of which must be refused.

Each file is built here, by hand. A file is refused where tfopt raises ModelError and the canary is untouched; that the
files are real is shown by plain Keras and plain TensorFlow, which fall for them (`test_the_attacks_are_real`).
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import attacks_archives
import attacks_keras3
import attacks_metadata
import attacks_operators
import attacks_saved_model
import attacks_tf_keras
import numpy as np
import pytest
from attacks import SECRET, Attack, Canary, function, hdf5_file, keras_file, model_file
from click.testing import CliRunner

import tfopt
from tfopt import legacy
from tfopt.errors import DataError, ModelError, TfoptError

MODULES = (attacks_keras3, attacks_operators, attacks_archives, attacks_metadata, attacks_saved_model)
ATTACKS = [attack for module in MODULES for attack in module.ATTACKS]
CONFIGS = {"keras3": attacks_keras3, "tf_keras": attacks_tf_keras}


@pytest.fixture
def canary(tmp_path):
    yield Canary(tmp_path / "canary")
    restore()


def restore() -> None:
    """What an attack that got through may have changed in this process."""
    import keras
    from keras.src.backend.common import global_state

    keras.config.set_floatx("float32")
    global_state.set_global_attribute("safe_mode_saving", None)


def opened(attack: Attack, path: Path):
    return tfopt.open_hub(path) if attack.doors == "hub" else tfopt.load_model(path)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.id for attack in ATTACKS])
def test_refused(attack, tmp_path, canary):
    import keras

    path, said = attack.written(tmp_path, canary), ""
    try:
        opened(attack, path)
        assert attack.may_load
    except ModelError as error:
        said = str(error)
    assert not canary.touched
    assert SECRET not in said
    assert keras.config.floatx() == "float32"


@pytest.mark.parametrize(
    ("kind", "form", "place"),
    [(kind, form, place) for kind, module in CONFIGS.items() for form in module.FORMS for place in module.places(form)],
)
def test_every_foreign_object_in_every_place_is_refused(tmp_path, monkeypatch, kind, form, place):
    """All of `objects`, one file for each: bytecode, functions and classes by module, Keras's API beyond models."""
    module = CONFIGS[kind]
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    through = {}
    for name in module.objects(Canary(tmp_path, write=False)):
        canary = Canary(tmp_path / name)
        canary.importable("keras_cv")
        path = canary.folder / f"model{form}"
        model_file(path, module.places(form)[place](module.objects(canary)[name]), kind)
        try:
            tfopt.load_model(path)
            if not place.startswith("compile_") or canary.touched:  # how a model was compiled may be left out
                through[name] = "loaded"
        except ModelError:
            if canary.touched:
                through[name] = "ran, then refused"
        except Exception as error:
            through[name] = f"{'ran, then ' if canary.touched else ''}{type(error).__name__}: {str(error)[:200]}"
    restore()
    assert not through


@pytest.mark.parametrize("form", attacks_tf_keras.FORMS)
@pytest.mark.parametrize("cls", ["TFOpLambda", "SlicingOpLambda"])
def test_functions_of_tensorflow_that_are_no_arithmetic_are_refused(tmp_path, cls, form):
    through = []
    for number, symbol in enumerate(attacks_operators.DANGEROUS):
        path = tmp_path / f"{number}{form}"
        model_file(path, attacks_tf_keras.called(form, symbol, str(tmp_path / "no"), cls=cls), "tf_keras")
        try:
            tfopt.load_model(path)
            through.append(symbol)
        except ModelError as error:
            if "allow_unsafe" not in str(error):  # a loader stumbled over it: it was looked up, or even called
                through.append(f"{symbol}: {str(error)[:150]}")
    assert not through
