"""Replace operations without a good integer operator by equivalent forms while a model is traced.

Working on operations instead of layers covers activations, cells of recurrent layers and custom code alike.
`_create_op_internal` is private in TensorFlow; `tests/tflite/write/test_traced_forms.py` detects changes to it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfopt.stages.quantize.int8_equivalents import SELU_ALPHA, SELU_SCALE


def _below_zero(values: Any) -> Any:
    """Return min(x, 0) as -max(-x, 0). MINIMUM has one range for input and output, so x would be clipped everywhere."""
    import tensorflow as tf

    return -1.0 * tf.nn.relu(-1.0 * values)


def _elu(values: Any, alpha: float = 1.0) -> Any:
    """Return max(x, 0) + alpha (exp(min(x, 0)) - 1)."""
    import tensorflow as tf

    return tf.nn.relu(values) + alpha * (tf.exp(_below_zero(values)) - 1.0)


def _softplus(values: Any) -> Any:
    """Return log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)): exp of large values would use up the range."""
    import tensorflow as tf

    return tf.nn.relu(values) + tf.math.log(1.0 + tf.exp(-1.0 * tf.abs(values)))


def _expm1(values: Any) -> Any:
    import tensorflow as tf

    return tf.exp(values) - 1.0


# The converter builds Selu, Softplus and Expm1 from exp(x), whose range is that of its largest value; Elu is for floats
# only.
FORMS: dict[str, Callable[[Any], Any]] = {
    "Elu": _elu,
    "Expm1": _expm1,
    "Selu": lambda values: SELU_SCALE * _elu(values, SELU_ALPHA),
    "Softplus": _softplus,
}


def _beside_zero(inputs: Any) -> Any:
    """Return the operand of two that is not the constant 0; None if both or neither of them is 0."""
    import tensorflow as tf

    values = [tf.get_static_value(each) for each in inputs]
    zeros = [value is not None and not np.any(value) and np.ndim(value) == 0 for value in values]
    return inputs[zeros.index(False)] if any(zeros) and not all(zeros) else None


@contextmanager
def integer_forms() -> Iterator[None]:
    """Trace functions in the block with `FORMS` instead of these operations on float tensors."""
    from tensorflow.python.framework.func_graph import FuncGraph

    original = FuncGraph._create_op_internal

    def create(graph: Any, op_type: str, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        form, operand = FORMS.get(op_type), inputs[0] if len(inputs) == 1 else None
        if op_type == "Minimum":
            form, operand = _below_zero, _beside_zero(inputs)
        if form is None or operand is None or not operand.dtype.is_floating:
            return original(graph, op_type, inputs, *args, **kwargs)
        return form(graph.capture(operand)).op

    FuncGraph._create_op_internal = create
    try:
        yield
    finally:
        FuncGraph._create_op_internal = original
