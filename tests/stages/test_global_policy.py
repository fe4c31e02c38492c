"""tf_keras's global dtype policy: the flat model and what TF-MOT wraps around its layers stay in float32."""

import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras


@pytest.fixture
def mixed_float16():
    precision = tf_keras().mixed_precision
    precision.set_global_policy("mixed_float16")
    yield
    precision.set_global_policy("float32")


def test_models_under_mixed_precision_can_be_compressed(mixed_float16):
    """https://github.com/tensorflow/model-optimization/issues/409 and 367."""
    layers, rng = tf_keras().layers, np.random.default_rng(0)
    model = tf_keras().Sequential([
        layers.Input((6, 6, 1)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3),
        layers.Activation("softmax", dtype="float32"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = rng.normal(size=(16, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 16)
    assert model.layers[0].compute_dtype == "float16"
    for stage in (tfopt.Prune(final_sparsity=0.5), tfopt.Cluster(number_of_clusters=4), tfopt.Quantize()):
        applied = stage.apply(model, steps=2)
        stage.calibrate(applied, x)
        applied.fit(x, y, batch_size=8, verbose=0, callbacks=stage.callbacks())
        assert {layer.compute_dtype for layer in applied.layers} == {"float32"}
        assert stage.strip(applied).layers[0].compute_dtype == "float16"  # as it was
    assert tf_keras().mixed_precision.global_policy().name == "mixed_float16"


@pytest.mark.parametrize("name", ["my model", "modèle", "x:0", "_hidden"])
def test_a_model_whose_name_tensorflow_refuses(name):
    """Keras 3 builds and saves such models, but cannot predict with them; tf_keras makes a scope of the name."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="den se")], name=name)
    lite = tfopt.export_tflite(model, None, tfopt.Export(weights="float32", activations="float32"))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(lite.predict(x), x @ np.asarray(model.layers[0].kernel), atol=1e-5)
    assert tfopt.Prune().apply(model, steps=1).layers
