"""The parameters of a file, as counted in the report."""

import numpy as np

from tfopt.tflite.read import LiteModel, Tensor

# Position of the bias among the operands of operators that have one.
BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3, "CONV_3D": 2}


def parameters_of(lite: LiteModel) -> list[np.ndarray]:
    """Return the kernels and biases in the file."""
    return [*(weight.values for weight in lite.weights()), *(lite.values(tensor) for tensor in bias_tensors(lite))]


def bias_tensors(lite: LiteModel) -> list[Tensor]:
    """Return the constants that operators of the file add."""
    tensors = {tensor.index: tensor for tensor in lite.tensors()}
    biases = {op.inputs[BIAS[op.name]] for op in lite.ops() if op.name in BIAS and len(op.inputs) > BIAS[op.name]}
    return [tensors[index] for index in sorted(biases) if index >= 0 and tensors[index].constant]
