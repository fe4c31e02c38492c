"""A wrapped model has the output names of the given one, for targets and losses by name."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.stages import STAGES

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
TARGETS = {"kind": np.arange(32) % 3, "place": X[:, :2]}
NARROW = {"round_to": 2}  # of PruneChannels: multiples of 8 leave nothing to remove
KINDS = [kind for kind in STAGES.builtin if not kind.restructures]
TRAINED = [made for kind in KINDS if (made := kind(**(NARROW if hasattr(kind, "round_to") else {}))).epochs]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    heads = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden),
        "place": keras.layers.Dense(2, name="place")(hidden),
    }
    model = keras.Model(inputs, [heads["kind"], heads["place"]])
    model.compile("sgd", {"kind": "sparse_categorical_crossentropy", "place": "mse"})
    return model


@pytest.mark.slow
@pytest.mark.parametrize("stage", TRAINED, ids=lambda stage: type(stage).__name__)
def test_targets_by_name(model, stage):
    wrapped = stage.apply(model, steps=2)
    history = wrapped.fit(X, TARGETS, epochs=1, verbose=0, callbacks=stage.callbacks()).history
    assert {"kind_loss", "place_loss"} <= set(history)
    lite = tfopt.export_tflite(stage.strip(wrapped), None, tfopt.Export(weights="float32", activations="float32"))
    assert [port.name for port in lite.outputs] == ["kind", "place"]
