"""The plan of quantization on small graphs; expected treatments by hand, from what TFLite fuses."""

import pytest

from tfopt.base import keras_compat
from tfopt.errors import RecipeError
from tfopt.graph.walk import walk
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.plan import plan, scales_of


def model_of(shape, *layers):
    inputs = x = keras_compat.tf_keras().Input(shape)
    for layer in layers:
        x = layer(x)
    return keras_compat.tf_keras().Model(inputs, x)


def rounded(model, **settings):
    """What is rounded in each layer: w(eights), b(efore the activation), o(utput)."""
    treatments = plan(walk(model, keep_names=True), settings)
    return {name: "w" * t.weights + "b" * t.before + "o" * t.output for name, t in treatments.items()}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("conv", ["wo"]),
        ("conv relu", ["w", "o"]),
        ("conv relu6", ["w", "o"]),
        ("conv bn", ["w", "o"]),
        ("conv bn relu", ["w", "", "o"]),
        ("conv bn swish", ["w", "o", "o"]),
        ("conv leaky", ["wo", "o"]),
        ("conv relu bn", ["w", "o", "o"]),
        ("relu_conv bn", ["wo", "o"]),
        ("relu_conv", ["wo"]),
        ("relu6_conv", ["wo"]),
        ("elu_conv", ["wbo"]),
        ("softmax_conv", ["wb"]),
        ("conv softmax", ["wo", ""]),
        ("bn conv", ["o", "wo"]),
        ("bn relu", ["", "o"]),
        ("depthwise bn relu6", ["w", "", "o"]),
        ("transposed bn relu", ["w", "", "o"]),
        ("conv3d_free bn relu", ["w", "", "o"]),
        ("conv rows_bn relu", ["wo", "", "o"]),
        ("separable bn", ["w", "o"]),
        ("conv dropout relu", ["wo", "", "o"]),
        ("conv max", ["wo", ""]),
        ("conv average", ["wo", ""]),
        ("conv global", ["wo", "o"]),
        ("rescaling conv", ["o", "wo"]),
        ("conv3d_free layernorm", ["wo", "o"]),
    ],
)
def test_chains(kinds, expected):
    layers = keras_compat.tf_keras().layers
    make = {
        "conv": lambda: layers.Conv2D(4, 1),
        "relu_conv": lambda: layers.Conv2D(4, 1, activation="relu"),
        "relu6_conv": lambda: layers.Conv2D(4, 1, activation=keras_compat.tf_keras().activations.get("relu6")),
        "elu_conv": lambda: layers.Conv2D(4, 1, activation="elu"),
        "softmax_conv": lambda: layers.Conv2D(4, 1, activation="softmax"),
        "conv3d_free": lambda: layers.Dense(4),
        "depthwise": lambda: layers.DepthwiseConv2D(1),
        "transposed": lambda: layers.Conv2DTranspose(4, 1),
        "separable": lambda: layers.SeparableConv2D(4, 1),
        "bn": layers.BatchNormalization,
        "rows_bn": lambda: layers.BatchNormalization(axis=1),
        "relu": layers.ReLU,
        "relu6": lambda: layers.ReLU(6.0),
        "leaky": layers.LeakyReLU,
        "swish": lambda: layers.Activation("swish"),
        "softmax": layers.Softmax,
        "dropout": lambda: layers.Dropout(0.5),
        "max": layers.MaxPooling2D,
        "average": layers.AveragePooling2D,
        "global": layers.GlobalAveragePooling2D,
        "rescaling": lambda: layers.Rescaling(2.0),
        "layernorm": layers.LayerNormalization,
    }
    if "relu6_conv" in kinds:
        make["relu6_conv"] = lambda: layers.Conv2D(4, 1, activation=relu6)
    assert list(rounded(model_of((4, 4, 4), *(make[kind]() for kind in kinds.split()))).values()) == expected


def relu6(x):
    import tensorflow as tf

    return tf.nn.relu6(x)


def branches(join, **options):
    """conv -> relu, with the conv's output used again by `join`."""
    layers = keras_compat.tf_keras().layers
    inputs = keras_compat.tf_keras().Input((4, 4, 4))
    x = layers.Conv2D(4, 1, name="conv", **options)(inputs)
    return keras_compat.tf_keras().Model(inputs, join(x, layers.ReLU(name="relu")(x)))


def test_a_relu_that_is_not_the_only_consumer_leaves_both_their_ranges():
    layers = keras_compat.tf_keras().layers
    assert rounded(branches(lambda x, y: layers.Add(name="add")([x, y]))) == {"conv": "wo", "relu": "o", "add": "o"}
    assert rounded(branches(lambda x, y: [x, y])) == {"conv": "wo", "relu": "o"}  # an output counts as well


def test_concatenated_tensors_share_the_range_of_the_whole_where_nothing_else_uses_them():
    layers = keras_compat.tf_keras().layers
    inputs = keras_compat.tf_keras().Input((4, 4, 4))
    a, b = layers.Conv2D(4, 1, name="a")(inputs), layers.Conv2D(4, 1, name="b")(inputs)
    s = layers.Conv2D(4, 1, activation="sigmoid", name="s")(inputs)
    joined = layers.Concatenate(name="joined")([a, layers.ReLU(name="r")(b), s])
    found = rounded(keras_compat.tf_keras().Model(inputs, [joined, layers.Flatten(name="f")(b)]))
    assert found == {"a": "w", "b": "wo", "s": "wb", "r": "", "joined": "o", "f": ""}


def test_a_relu_after_a_sum_is_part_of_it():
    layers = keras_compat.tf_keras().layers
    inputs = keras_compat.tf_keras().Input((4,))
    x = layers.Add(name="add")([layers.Dense(4, name="dense")(inputs), inputs])
    model = keras_compat.tf_keras().Model(inputs, layers.ReLU(name="relu")(x))
    assert rounded(model) == {"dense": "wo", "add": "", "relu": "o"}


def test_a_batch_norm_called_twice_is_not_folded():
    layers = keras_compat.tf_keras().layers
    inputs = keras_compat.tf_keras().Input((4, 4, 4))
    conv, norm = layers.Conv2D(4, 1, name="conv"), layers.BatchNormalization(name="norm")
    model = keras_compat.tf_keras().Model(inputs, norm(conv(norm(inputs))))
    assert rounded(model) == {"conv": "wo", "norm": "o"}


def test_integers_and_shapes_are_not_rounded():
    import tensorflow as tf

    layers = keras_compat.tf_keras().layers
    inputs = keras_compat.tf_keras().Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, name="table")(inputs)
    y = tf.reshape(x, (-1, 24))  # a TFOpLambda
    model = keras_compat.tf_keras().Model(inputs, [y * 2.0, tf.shape(x)])
    assert sorted(rounded(model).values()) == sorted(["w", "", "o", ""])


def test_rules_decide_and_what_cannot_be_joined_any_more_is_rounded_by_itself():
    layers = keras_compat.tf_keras().layers
    model = model_of((4, 4, 4), layers.Conv2D(4, 1, name="conv"), layers.ReLU(name="relu"))
    assert rounded(model, relu=False) == {"conv": "wo", "relu": ""}
    assert rounded(model, conv=False) == {"conv": "", "relu": "o"}
    assert rounded(model, conv="weights") == {"conv": "w", "relu": "o"}
    assert rounded(model, conv="output") == {"conv": "o", "relu": "o"}
    treatment = plan(walk(model, keep_names=True), {"conv": False})["conv"]
    assert (treatment.in_float, treatment.why) == (True, "by rule")
    with pytest.raises(RecipeError, match=r"'conv'.*'half'|'half'.*'conv'.*Known: True, False, 'weights', 'output'"):
        plan(walk(model, keep_names=True), {"conv": "half"})


def test_what_litert_cannot_do_in_int8_is_left_in_float_with_the_reason():
    model = model_of((4, 4, 4, 2), keras_compat.tf_keras().layers.Conv3D(2, 1, name="conv"))
    treatment = plan(walk(model, keep_names=True), {})["conv"]
    assert treatment.in_float
    assert not treatment.quantizes
    assert "no int8 operator" in treatment.why


@pytest.mark.parametrize(
    ("equation", "output", "shape", "axes"),
    [
        ("abc,cd->abd", (None, 5), (3, 4), (-1,)),
        ("abc,cde->abde", (None, 2, 5), (3, 4), (-2, -1)),  # heads of attention
        ("abcd,cde->abe", (None, 5), (3, 2, 4), (-1,)),  # and back
        ("abc,bcd->abd", (None, 5), (3, 4), ()),  # a separate matrix for each b, so no scales per channel
    ],
)
def test_scales_of_einsum_run_along_what_the_input_lacks(equation, output, shape, axes):
    output = (3, 5) if axes == () else output
    layer = keras_compat.tf_keras().layers.EinsumDense(equation, output_shape=output)
    layer.build((None, *shape))
    assert scales_of(kernels(layer)[0]).axes == axes
