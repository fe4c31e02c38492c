"""A TextVectorization at the beginning of a model becomes a front end: the reference is the whole model on texts."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base.annotations import annotations
from tfopt.base.keras_compat import tf_keras
from tfopt.data.text import Text
from tfopt.errors import DataError, ModelError
from tfopt.models.sources import model_from
from tfopt.models.text_layer import behind_text_layer

WORDS = ["A good film!", "bad film", "good, good", "bad bad movie", "a movie"]
TEXTS = np.array(WORDS * 12, object)
LABELS = np.array([1, 0, 1, 0, 1] * 12)


@pytest.fixture(params=["keras", "tf_keras"])
def package(request):
    return keras if request.param == "keras" else tf_keras()


def layer_for(package, **settings):
    layer = package.layers.TextVectorization(**{"max_tokens": 20, "output_sequence_length": 4, **settings})
    layer.adapt(WORDS)
    return layer


def chain(package, layer, *, shape=(), nested=False):
    layers = package.layers
    package.utils.set_random_seed(0)
    behind = [layers.Embedding(20, 4), layers.GlobalAveragePooling1D(), layers.Dense(2, name="scores")]
    if nested:
        behind = [package.Sequential([package.Input((4,), dtype="int64"), *behind]), layers.Activation("softmax")]
    return package.Sequential([package.Input(shape, dtype="string"), layer, *behind], name="reviews")


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({}, {}),
        ({"ngrams": 2}, {}),
        ({"output_sequence_length": None}, {}),
        ({}, {"shape": (1,)}),
        ({}, {"nested": True}),
    ],
)
def test_the_part_behind_answers_as_the_whole(package, settings, form, saved, tmp_path):
    layer = layer_for(package, **settings)
    model = chain(package, layer, **form)
    model.save(tmp_path / "model.keras")
    part = behind_text_layer(tfopt.load_model(tmp_path / "model.keras") if saved else model)
    text = annotations(part).preprocessing
    fitted, _ = text.fitted(TEXTS)
    given = tf.constant(TEXTS.reshape(-1, *form.get("shape", ())).astype(str))
    np.testing.assert_allclose(part(fitted.stored(TEXTS)), model(given), rtol=1e-6)
    assert "int32" in str(part.inputs[0].dtype) and part.name == "reviews"
    assert text.vocabulary == tuple(layer.get_vocabulary())


def test_it_is_compiled_like_the_whole(package):
    model = chain(package, layer_for(package))
    assert not tfopt.bridge.is_compiled(behind_text_layer(model))
    model.compile(package.optimizers.SGD(0.25), "mse")
    assert float(behind_text_layer(model).optimizer.learning_rate) == 0.25


@pytest.mark.parametrize(
    "settings",
    [{"standardize": "lower"}, {"split": "character"}, {"ngrams": (2,)}, {"output_mode": "multi_hot"}],
)
def test_layers_that_do_something_else_stay(package, settings):
    layer = layer_for(package, **settings, **({"output_sequence_length": None} if "output_mode" in settings else {}))
    model = package.Sequential([package.Input((), dtype="string"), layer])
    assert behind_text_layer(model) is model
    with pytest.raises(ModelError, match="takes numbers, got strings"):
        tfopt.optimize(model, [tfopt.PostTraining()], (TEXTS, LABELS), quiet=True)


def test_strings_with_another_reader_stay(package):
    given = package.Input((), dtype="string")
    ids = layer_for(package)(given)
    lengths = package.layers.StringLookup(vocabulary=WORDS, output_mode="one_hot")(given)
    model = package.Model(given, [ids, lengths])
    assert behind_text_layer(model) is model


def test_other_models_stay(package):
    model = package.Sequential([package.Input((3,)), package.layers.Dense(2)])
    assert behind_text_layer(model) is model


def test_a_layer_without_a_vocabulary(package):
    layer = package.layers.TextVectorization(output_sequence_length=4)
    with pytest.raises(ModelError, match="has no vocabulary: adapt it"):
        behind_text_layer(chain(package, layer))


def test_texts_in_and_a_file_with_the_front_end_out(tmp_path):
    layer = layer_for(keras)
    model = chain(keras, layer)
    model.save(tmp_path / "reviews.keras")
    result = tfopt.optimize(
        model_from(tmp_path / "reviews.keras"),
        tfopt.Recipe(stages=(tfopt.PostTraining(),), max_drop=1.0),
        (TEXTS, LABELS),
        quiet=True,
    )
    assert any("the texts go through its layer" in note for note in result.report.rows[0].notes)
    result.save(tmp_path / "out")
    stated = json.loads((tmp_path / "out" / "data.json").read_text())["preprocessing"]
    assert (stated["kind"], stated["length"], stated["ngrams"]) == ("text", 4, 1)
    words = (tmp_path / "out" / "vocabulary.txt").read_text().split("\n")
    assert words[:-1] == layer.get_vocabulary()
    lite = tfopt.LiteModel(tmp_path / "out" / "model.tflite")
    ids = Text(vocabulary=layer.get_vocabulary(), length=4).stored(TEXTS[:5])
    expected = np.asarray(model(tf.constant(WORDS)))
    np.testing.assert_allclose(lite.predict(ids), expected, atol=0.05 * np.ptp(expected))


def test_a_data_set_with_another_vocabulary_is_refused():
    model = chain(keras, layer_for(keras))
    for text in (
        Text(vocabulary=("", "[UNK]", "good"), length=4),
        Text(vocabulary=layer_for(keras).get_vocabulary(), ngrams=2),
    ):
        data = tfopt.load_data((TEXTS, LABELS), preprocessing=text)
        with pytest.raises(DataError, match="model's own layer for texts, got a Dataset with another"):
            tfopt.optimize(model, [tfopt.PostTraining()], data, quiet=True)
