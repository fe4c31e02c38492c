"""Mixtures of two samples and their labels."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.data.mixup import for_mixup, mixed
from tfopt.errors import RecipeError
from tfopt.run import step

ROWS = np.eye(40, dtype="float32")  # samples that show which two were mixed, and by which shares


def batches(labels=ROWS, size=40):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((ROWS[:, :, None], labels)).batch(size)


def test_a_sample_and_its_label_are_mixed_alike():
    for x, y in mixed(batches(size=16), 1.0, 3):
        np.testing.assert_array_equal(x[..., 0], y)
        np.testing.assert_allclose(np.sum(y, axis=1), 1, rtol=1e-6)
        assert (np.count_nonzero(y, axis=1) <= 2).all()


def test_weights_are_mixed_alike():
    import tensorflow as tf

    weights = tf.data.Dataset.from_tensor_slices(np.arange(40, dtype="float32")).batch(40)
    pairs = tf.data.Dataset.zip(batches(), weights).map(lambda pair, weights: (*pair, weights))
    [(_, y, mixture)] = mixed(pairs, 1.0, 3)
    np.testing.assert_allclose(mixture, y.numpy() @ np.arange(40), rtol=1e-5)


def test_the_own_label_has_at_least_half():
    [(x, y)] = mixed(batches(), 0.5, 0)
    own = y.numpy().diagonal()
    assert (own >= 0.5).all() and np.count_nonzero(own < 0.999) > 20
    assert len(np.unique(x.numpy().argmax(axis=1))) == 40


@pytest.mark.parametrize(("alpha", "mean"), [(1.0, 0.25), (0.2, 0.1012)])  # of min(s, 1 - s), s from Beta(alpha, alpha)
def test_shares_are_of_the_beta_distribution(alpha, mean):
    """0.1012: the mean of 20 million draws of NumPy."""
    shares = [1 - np.max(y, axis=1) for _, y in mixed(batches().repeat(200), alpha, 1)]
    # A sample mixed with itself shows no share: one of 40.
    assert np.mean(shares) * 40 / 39 == pytest.approx(mean, rel=0.05)


def test_the_same_seed_gives_the_same_mixtures():
    first, again, other = ([y.numpy() for _, y in mixed(batches(size=20), 0.2, seed)] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0][:, :20], first[1][:, 20:]), "batches differ"


def test_each_iteration_mixes_otherwise():
    data = mixed(batches(size=20), 0.5, 3)
    assert data.cardinality() == 2
    first, second = ([y.numpy() for _, y in data] for _ in range(2))
    assert not np.array_equal(first[0], second[0])
    again = mixed(batches(size=20), 0.5, 3)
    for expected in (first, second):
        np.testing.assert_array_equal([y.numpy() for _, y in again], expected)


def test_class_numbers_become_one_hot():
    numbers = np.arange(60) % 3
    data = for_mixup(tfopt.load_data((np.random.default_rng(0).normal(size=(60, 4)), numbers)), 4)
    assert data.labels == "one-hot"
    for part in (data.train, data.validation, data.test):
        assert part.labels.shape == (len(part), 4)
        assert set(part.labels.sum(axis=1)) == {1}


def test_two_classes_with_one_output_cannot_be_mixed():
    data = tfopt.load_data((np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2))
    with pytest.raises(RecipeError, match=r"the model has 1 outputs\. Leave mixup out"):
        for_mixup(data, 1)


def test_words_cannot_be_mixed():
    keras = tf_keras()
    words, labels = np.random.default_rng(0).integers(0, 9, (60, 6)).astype("int32"), np.arange(60) % 3
    layers = [keras.layers.Embedding(9, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax")]
    reader = keras.Sequential([keras.Input((6,)), *layers])
    stages = (tfopt.FineTune(epochs=1),)
    with pytest.raises(RecipeError, match="looks its inputs up in a table"):
        tfopt.optimize(reader, tfopt.Recipe(stages=stages, training=tfopt.Training(mixup=0.2)), (words, labels))


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        tf_keras().losses.SparseCategoricalCrossentropy(),
    ],
)
def test_losses_of_class_numbers_cannot_be_mixed(loss):
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), training=tfopt.Training(mixup=0.2, loss=loss))
    x, labels = np.zeros((60, 6), "float32"), np.arange(60) % 3
    with pytest.raises(RecipeError, match="give 'categorical_crossentropy'"):
        tfopt.optimize(plain, recipe, (x, labels))


def test_a_run_with_mixtures(monkeypatch):
    asked = []
    monkeypatch.setattr(step, "mixed", lambda data, *settings: asked.append(settings) or mixed(data, *settings))
    keras = tf_keras()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = (rng.normal(size=(300, 6)) + 3 * np.eye(3)[labels] @ rng.normal(size=(3, 6))).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")])
    training = tfopt.Training(mixup=0.2, learning_rate=0.01)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=20),), training=training)
    result = tfopt.optimize(model, recipe, (x, labels), quiet=True)
    assert [settings[:2] for settings in asked] == [(0.2, 0)]
    assert result.report.rows[-1].metrics["accuracy"] > 0.9
    with pytest.raises(RecipeError, match="A teacher answers samples, not mixtures"):
        tfopt.optimize(model, recipe, (x, labels), teacher=model, quiet=True)
    with pytest.raises(RecipeError, match="A teacher answers samples, not mixtures"):
        tfopt.self_taught.born_again(model, (x, labels), training=training, quiet=True)


def test_batches_of_unknown_number():
    filtered = batches(size=8).filter(lambda x, y: True)
    assert len(list(mixed(filtered, 0.2, 0))) == 5
