"""keras.applications: one small constructor of each family; the others differ only in width and depth."""

import numpy as np
import pytest

from tfopt import bridge

# constructor, image size, further arguments, kinds of layers that only this family has
FAMILIES = [
    ("ConvNeXtTiny", 32, {}, {"LayerScale", "Normalization"}),
    ("DenseNet121", 32, {}, {"Concatenate"}),
    ("EfficientNetB0", 32, {}, {"Rescaling", "Normalization", "Multiply"}),
    ("EfficientNetV2B0", 32, {}, {"Rescaling", "Multiply"}),
    ("InceptionV3", 75, {}, {"AveragePooling2D"}),
    ("InceptionResNetV2", 75, {}, {"ScaledAdd"}),
    ("MobileNet", 32, {"alpha": 0.25}, {"DepthwiseConv2D"}),
    ("MobileNetV2", 32, {"alpha": 0.35}, {"DepthwiseConv2D"}),
    ("MobileNetV3Small", 32, {"alpha": 0.75}, {"Rescaling", "Multiply"}),
    ("NASNetMobile", 32, {}, {"SeparableConv2D", "Cropping2D"}),
    ("ResNet50", 32, {}, {"Add"}),
    ("ResNet50V2", 32, {}, {"Add"}),
    ("VGG16", 32, {}, {"MaxPooling2D"}),
    ("Xception", 71, {}, {"SeparableConv2D"}),
]


def randomize(model):
    """Set BatchNormalization statistics to those of its inputs, random factors, and scales that are not tiny."""
    rng = np.random.default_rng(0)
    inside = {"gamma": (0.5, 1.5), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "moving_variance": (0.5, 1.5)}
    for layer in model.layers:
        if type(layer).__name__ in ("BatchNormalization", "LayerScale"):
            for weight in layer.weights:
                weight.assign(rng.uniform(*inside.get(weight.name, (0.5, 1.5)), weight.shape))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "arguments", "kinds"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_family_crosses_without_keras_3_inside(name, size, arguments, kinds):
    import keras

    constructor = getattr(keras.applications, name)
    model = constructor(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3), **arguments)
    randomize(model)
    flat = bridge.to_tf_keras(model)
    found = {type(layer).__name__ for layer in flat.layers}
    assert kinds <= found
    assert "Carried" not in found
    images = np.random.default_rng(1).uniform(0, 1, (2, size, size, 3)).astype("float32")
    expected = np.asarray(model(images, training=False))
    allowed = 1e-4 * max(1, np.abs(expected).max())
    np.testing.assert_allclose(flat(images, training=False), expected, rtol=0, atol=allowed)
