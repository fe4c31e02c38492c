"""A training that runs out of memory: an error that says what to do, or smaller batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.errors import RecipeError
from tfopt.run import step
from tfopt.training.fit import train

FLOAT = tfopt.Export(weights="float32", activations="float32")


@pytest.fixture
def sizes(monkeypatch):
    """The batch sizes of the trainings; those above 8 run out of memory in their second epoch."""
    found = []

    def trained(learner, batches, *args, training, callbacks, **more):
        found.append((training.batch_size, int(next(iter(batches))[0].shape[0])))

        def full(epoch, logs=None):
            if epoch == 1 and training.batch_size > 8:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[64,1,1,6]")

        from tfopt.base.keras_compat import tf_keras

        callbacks = [*callbacks, tf_keras().callbacks.LambdaCallback(on_epoch_begin=full)]
        return train(learner, batches, *args, training=training, callbacks=callbacks, **more)

    monkeypatch.setattr(step, "train", trained)
    return found


def run(size, *, lower, checkpoint=None):
    x = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "relu", name="hidden"), keras.layers.Dense(2, "softmax", name="head")]
    model = keras.Sequential([keras.Input((6,), name="x"), *layers], name="net")
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=2), tfopt.Prune(epochs=2, min_steps=0)),
        training=tfopt.Training(batch_size=size, lower_batch_on_oom=lower),
        export=FLOAT,
        max_drop=None,
    )
    data = tfopt.load_data((x, (x[:, 0] > 0).astype("int64")))
    return tfopt.optimize(model, recipe, data, quiet=True, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def with_8():
    """The file of a run with small batches from the start."""
    return run(8, lower=False).lite.data


def test_batches_are_halved_until_they_fit_and_stay_so(sizes, with_8):
    lowered = run(32, lower=True)
    assert sizes == [(32, 32), (16, 16), (8, 8), (8, 8)]
    rows = lowered.report.rows
    note = "batch size 8 instead of 32, at the same learning rate, since memory ran out"
    assert rows[1].notes[0] == rows[2].notes[0] == note and note not in rows[3].notes
    assert lowered.lite.data == with_8


def test_without_the_setting_the_error_says_what_to_do(sizes):
    said = r"^FineTune: memory ran out on .* with batch_size=32\. Let the run find a smaller one: .* halves it; or give"
    with pytest.raises(RecipeError, match=said):
        run(32, lower=False)


def test_a_resumed_run_keeps_the_lowered_batch_size(sizes, tmp_path, monkeypatch, with_8):
    """Killed in the second stage; then memory suffices for the batches of the recipe, which would give other bytes."""
    trained = step.train

    def killed(*args, **more):
        if more["label"].startswith("2/2"):
            raise KeyboardInterrupt
        return trained(*args, **more)

    monkeypatch.setattr(step, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run(32, lower=True, checkpoint=tmp_path)
    sizes.clear()

    def recorded(*args, **more):
        sizes.append(more["training"].batch_size)
        return train(*args, **more)

    monkeypatch.setattr(step, "train", recorded)
    resumed = run(32, lower=True, checkpoint=tmp_path)
    assert sizes == [8] and resumed.lite.data == with_8
    assert resumed.report.rows[2].notes[0].startswith("batch size 8 instead of 32")


def test_the_advice_of_the_error_goes_on_from_the_checkpoint(sizes, tmp_path, with_8):
    with pytest.raises(RecipeError, match=r"halves it and goes on from the checkpoint; .* and start over, free memory"):
        run(32, lower=False, checkpoint=tmp_path)
    (there,) = tmp_path.glob("stage_1_*")
    lowered = run(32, lower=True, checkpoint=tmp_path)
    assert lowered.lite.data == with_8
    assert not there.exists()  # the same folder: the run took it over


def test_not_even_single_samples_fit(monkeypatch):
    def full(*args, **more):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(step, "train", full)
    with pytest.raises(RecipeError, match=r"batch_size=1\. Give a smaller one \(--batch-size\), free memory"):
        run(2, lower=True)
