"""The types in a file against those that were promised, on files of TensorFlow's own converter."""

import numpy as np
import pytest
import tensorflow as tf

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import PromiseError
from tfopt.tflite.prove.types import verify_types
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export


@pytest.fixture(scope="module")
def file():
    """A function that makes an int8 file whose input and output have the given types."""
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(2)
    model = tf_keras().Sequential([tf_keras().Input((6,), name="given"), layers.Dense(4, name="dense")])
    samples = np.random.default_rng(0).normal(size=(32, 1, 6)).astype("float32")

    def made(input_type, output_type):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type, converter.inference_output_type = input_type, output_type
        return LiteModel(converter.convert())

    return made


@pytest.mark.parametrize("in_float", [{}, {"dense": "a rule says so"}], ids=["all integers", "a layer left in float"])
@pytest.mark.parametrize(
    ("types", "border", "wrong"),
    [
        ((tf.int8, tf.int8), "int8", None),
        ((tf.float32, tf.int8), "int8", "input"),
        ((tf.int8, tf.float32), "int8", "output"),
        ((tf.uint8, tf.int8), "int8", "input"),
        ((tf.uint8, tf.uint8), "uint8", None),
        ((tf.uint8, tf.int8), "uint8", "output"),
        ((tf.float32, tf.float32), "float32", None),
        ((tf.float32, tf.int8), "float32", "output"),
    ],
    ids=lambda value: " to ".join(dtype.name for dtype in value) if isinstance(value, tuple) else str(value),
)
def test_inputs_and_outputs_hold_what_was_promised(file, types, border, wrong, in_float):
    lite, settings = file(*types), Export(io=border)
    (given,), (output,) = lite.inputs, lite.outputs
    assert (given.dtype, output.dtype) == tuple(dtype.name for dtype in types)
    if wrong is None:
        verify_types(lite, settings, in_float, LayerNames(lite, ()))
        return
    port, dtype = (given, types[0].name) if wrong == "input" else (output, types[1].name)
    with pytest.raises(PromiseError, match=f"{border} inputs and outputs were promised, but '{port.name}' is {dtype} "):
        verify_types(lite, settings, in_float, LayerNames(lite, ()))
