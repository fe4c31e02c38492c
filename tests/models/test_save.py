"""Whether Keras can save a model is known before it is trained."""

import keras
import pytest

from tfopt.models.save import why_not_saved


class Silent(keras.layers.Dense):
    def get_config(self):
        raise NotImplementedError("Layer Silent has no config.\nMore lines.")


def test_why_a_model_cannot_be_saved():
    model = keras.Sequential([keras.Input((2,)), Silent(3)], name="net")
    assert why_not_saved(model) == "The model 'net' cannot be saved: Layer Silent has no config."


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_an_ordinary_model_can_be_saved(package):
    from tfopt.base.keras_compat import tf_keras

    api = keras if package == "keras" else tf_keras()
    assert why_not_saved(api.Sequential([api.Input((2,)), api.layers.Dense(3)])) == ""
