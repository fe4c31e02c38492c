"""The rows of layer_facts hold for the layers of both Keras versions, and no other module lists classes."""

import ast
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import native
from tfopt.graph.layer_facts import FACTS, LayerFacts, classes_with, facts_named, facts_of

ROOT = Path(__file__).parents[2]
CHANNELS, OUTPUTS = 5, 3
SIZES = {"1D": (6,), "2D": (6, 6), "3D": (4, 4, 4)}
CONV = {"filters": OUTPUTS, "kernel_size": 2}
ARGUMENTS = {
    "Dense": {"units": OUTPUTS},
    "EinsumDense": {"equation": "ab,bc->ac", "output_shape": OUTPUTS},
    "Embedding": {"input_dim": 7, "output_dim": OUTPUTS},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 4},
    "GroupedQueryAttention": {"head_dim": 4, "num_query_heads": 2, "num_key_value_heads": 1},
    "GroupNormalization": {"groups": 5},
    "Activation": {"activation": "linear"},
    "Reshape": {"target_shape": (-1,)},
    "Permute": {"dims": (2, 1)},
    "RepeatVector": {"n": 2},
    "Resizing": {"height": 3, "width": 3},
    "CenterCrop": {"height": 3, "width": 3},
    "GaussianNoise": {"stddev": 1.0},
    "RandomRotation": {"factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomContrast": {"factor": 0.2},
    "RandomBrightness": {"factor": 0.2},
    "RandomCrop": {"height": 6, "width": 6},
    "RandomHeight": {"factor": 0.2},
    "RandomWidth": {"factor": 0.2},
    "CategoryEncoding": {"num_tokens": 5},
    "Hashing": {"num_bins": 5},
    "Discretization": {"bin_boundaries": [0.0]},
    "LayerScale": {"init_values": 0.5, "projection_dim": CHANNELS},
    "StochasticDepth": {"drop_path_rate": 0.5},
    "RMSNormalization": {"epsilon": 0.01},
}
IMAGES = ("Resizing", "CenterCrop", "RandomCrop", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation",
          "RandomContrast", "RandomBrightness", "RandomHeight", "RandomWidth", "StochasticDepth")  # fmt: skip
SEQUENCES = ("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional", "TimeDistributed", "MultiHeadAttention", "Masking",
             "GroupedQueryAttention", "Permute")  # fmt: skip


def class_of(api, name):
    """The class that Keras exports under this name; None if this Keras has none."""
    if name in ("LayerScale", "StochasticDepth"):
        return native.classes(name) if api is not keras else None
    if name == "RMSNormalization" and api is not keras:
        return native.classes(name)
    if name == "ConvLSTMCell":
        module = type(layer_of(api, "ConvLSTM2D").cell).__module__
        return getattr(__import__(module, fromlist=["ConvLSTMCell"]), name)
    if name == "GroupedQueryAttention":  # the name of the class; Keras 3 exports it under another
        return getattr(api.layers, "GroupQueryAttention", None)
    return getattr(api.layers, name, None)


def arguments_of(api, name):
    layers = api.layers
    if name == "ConvLSTMCell":
        return {"rank": 2, **CONV}
    if name == "RNN":
        return {"cell": layers.LSTMCell(OUTPUTS)}
    if name == "Bidirectional":
        return {"layer": layers.GRU(OUTPUTS)}
    if name == "TimeDistributed":
        return {"layer": layers.Dense(OUTPUTS)}
    if name in ARGUMENTS:
        return ARGUMENTS[name]
    facts = facts_named(name)
    if facts.family in ("cell", "recurrent") and facts.width == "units":
        return {"units": OUTPUTS}
    if facts.family == "average_pooling":
        return {"pool_size": 2}
    if "Dropout" in name:
        return {"rate": 0.5}
    if facts.width == "filters":
        return CONV
    return {"kernel_size": 2} if facts.family == "depthwise" else {}


def layer_of(api, name):
    return class_of(api, name)(**arguments_of(api, name))


def shape_of(name):
    size = next((size for end, size in SIZES.items() if end in name), ())
    if name.startswith("ConvLSTM"):
        return (2, *(size or (6, 6)), CHANNELS) if name != "ConvLSTMCell" else (6, 6, CHANNELS)
    size = size or ((6, 6) if name in IMAGES else (6,) if name in SEQUENCES else ())
    return (*size, CHANNELS)


def called(api, name):
    """A built layer, its inputs and its outputs as arrays; 2 samples."""
    layer = layer_of(api, name)
    x = np.random.default_rng(0).normal(size=(2, *shape_of(name))).astype("float32")
    if facts_named(name).looks_up:
        x = np.abs(x).astype("int32")
    if facts_named(name).family == "cell":
        states = [np.zeros((2, *shape_of(name)[:-1], OUTPUTS), "float32")] * (2 if "LSTM" in name else 1)
        if name == "ConvLSTMCell":
            states = [state[:, :5, :5] for state in states]
        outputs, _ = layer(tf.constant(x), [tf.constant(state) for state in states])
    elif "Attention" in name:
        outputs = layer(x, x)
    elif name in ("Add", "Subtract", "Multiply", "Concatenate"):
        outputs = layer([x, x])
    else:
        outputs = layer(x)
    return layer, x, np.asarray(outputs)


def rows(holds):
    """(keras, class name) for each class in either Keras whose row satisfies `holds`."""
    for name in classes_with(holds):
        for api in (keras, tf_keras()):
            yield pytest.param(api, name, id=f"{api.__name__}-{name}")


def exists(api, name):
    if class_of(api, name) is None:
        pytest.skip(f"{api.__name__} has no {name}")


def test_every_class_is_one_of_keras():
    """Except StochasticDepth and LayerScale of keras.applications, which tfopt provides for tf_keras."""
    assert [name for name in FACTS if all(class_of(api, name) is None for api in (keras, tf_keras()))] == []


@pytest.mark.parametrize(("api", "name"), rows(lambda row: row.kernels))
def test_kernels_and_the_axis_of_their_output_channels(api, name):
    exists(api, name)
    layer, x, outputs = called(api, name)
    facts = facts_of(layer)
    kernels = facts.kernels
    if api is keras and facts.family == "depthwise":  # Keras 3 has no other name for it
        kernels = {"kernel": kernels["depthwise_kernel"]}
    found = {attribute: getattr(layer, attribute) for attribute in kernels}
    named = {weight.name.split("/")[-1].split(":")[0] for weight in layer.weights}
    assert named - {"bias"} == set(kernels)  # no large weight is missing
    for attribute, axis in kernels.items():
        inner = name.startswith("Separable") and attribute == "depthwise_kernel"
        channels = x.shape[-1] if inner else outputs.shape[-1]
        assert found[attribute].shape[axis] == (facts.gates or 1) * channels, attribute


@pytest.mark.parametrize(("api", "name"), rows(lambda row: row.width))
def test_what_the_config_calls_the_width(api, name):
    exists(api, name)
    layer, _, outputs = called(api, name)
    value = layer.get_config()[FACTS[name].width]
    if "Attention" in name:  # the width of a head
        assert value == 4
    else:
        assert (value if isinstance(value, int) else tuple(value)[-1]) == outputs.shape[-1] == OUTPUTS


@pytest.mark.parametrize(("api", "name"), rows(lambda row: row.parts))
def test_parts_are_layers(api, name):
    exists(api, name)
    layer, _, _ = called(api, name)
    for attribute in FACTS[name].parts.values():
        assert getattr(layer, attribute).weights, attribute


@pytest.mark.parametrize("name", FACTS)
def test_data_format_is_an_argument(name):
    classes = [cls for api in (keras, tf_keras()) if (cls := class_of(api, name)) is not None]
    takes = ["data_format" in inspect.signature(cls.__init__).parameters for cls in classes]
    assert FACTS[name].data_format == all(takes), takes


@pytest.mark.parametrize(("api", "name"), rows(lambda row: not row.mixes_channels))
def test_weights_that_connect_no_channels(api, name):
    exists(api, name)
    layer, x, _ = called(api, name)
    assert all(list(weight.shape).count(x.shape[-1]) <= 1 for weight in layer.weights)


@pytest.mark.parametrize(("api", "name"), rows(lambda row: row.passes))
def test_what_passes_stays_in_range(api, name):
    exists(api, name)
    _, x, outputs = called(api, name)
    assert min(x.min(), 0) <= outputs.min() and outputs.max() <= max(x.max(), 0)
    doubled = np.asarray(layer_of(api, name)(2 * x))
    np.testing.assert_allclose(doubled, 2 * outputs, rtol=1e-5, atol=1e-6)  # its only constants are zeros


@pytest.mark.parametrize(("api", "name"), rows(lambda row: row.absent))
def test_what_is_absent_in_inference(api, name):
    exists(api, name)
    layer = layer_of(api, name)
    x = np.random.default_rng(0).uniform(size=(2, *shape_of(name)[:-1], 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(layer(x, training=False)), x, rtol=1e-6)


@pytest.mark.parametrize(("api", "name"), rows(lambda row: row.scalable))
def test_scales_of_channels_go_through(api, name):
    exists(api, name)
    layer, x, outputs = called(api, name)
    s = np.array([0.25, 0.5, 1.0, 3.0, 8.0], "float32")
    np.testing.assert_allclose(np.asarray(layer(x / s)), outputs / s, rtol=1e-5, atol=1e-6)


def test_activations():
    x = np.array([[-1.0, 2.0]], "float32")
    assert np.asarray(layer_of(keras, "ReLU")(x)).tolist() == [[0, 2]]
    np.testing.assert_allclose(np.asarray(layer_of(keras, "Softmax")(x)).sum(), 1, rtol=1e-6)
    assert {name: row.activation for name, row in FACTS.items() if row.activation} == {
        "ReLU": "relu",
        "Softmax": "softmax",
    }


def test_a_class_without_a_row():
    class Mine(keras.layers.Layer):
        pass

    assert facts_of(Mine()) == facts_named("Mine") == LayerFacts()


# Who may name layer classes with weights, and why; docs/architecture.md lists them too.
NAMES_THEM = {
    "tfopt/graph/layer_facts.py": "the table",
    "tfopt/bridge/twins.py": "which namesakes compute the same in tf_keras, each tried by a test",
    "tfopt/graph/indices.py": "which layers and operations look up rows of a table",
    "tfopt/transfer/architectures.py": "the layers by which families of keras.applications are recognized",
    "tfopt/models/rebuild/weighted.py": "operations of a graph, and the layers made of them",
    "tfopt/tflite/read/macs.py": "operators of LiteRT, some named as layers are",
    "tfopt/models/rebuild/table.py": "operations of a graph, some named as layers are",
}


def classes_named(text, names):
    return [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and n.value in names]


def test_no_other_file_lists_classes_with_weights():
    names = set(classes_with(lambda row: row.kernels or row.parts or row.width or row.family == "batch_norm"))
    assert len(names) > 30
    files = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("tfopt/**/*.py")}
    found = {file: named for file, text in files.items() if (named := classes_named(text, names))}
    assert not {file: named for file, named in found.items() if file not in NAMES_THEM}, "ask layer_facts instead"
    assert found.keys() == NAMES_THEM.keys(), "these need no exception any more"


def test_a_list_of_classes_is_found():
    assert classes_named('if type(layer).__name__ in ("Conv2D", "Mine"): ...', {"Conv2D"}) == ["Conv2D"]
