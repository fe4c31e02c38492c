"""Replace operations that a file cannot hold, or not well in integers, by equivalent forms while a model is traced.

Working on operations instead of layers covers activations, cells of recurrent layers and custom code alike.
`_create_op_internal` is private in TensorFlow; `tests/tflite/write/test_traced_forms.py` detects changes to it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfopt.stages.quantize.int8_equivalents import SELU_ALPHA, SELU_SCALE
from tfopt.tflite.write.category_forms import compared_lookups, counted
from tfopt.tflite.write.fourier_forms import FOURIER

Form = Callable[..., Any]
"""(the operation's inputs) -> a tensor that is equal; None to keep the operation."""


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


def _never(values: Any) -> Any:
    """Return False everywhere: integers are never NaN. None for values of an input, which may be float and missing."""
    import tensorflow as tf

    return None if _is_given(values) else tf.zeros_like(values, tf.bool)


_MOVES = """
    Cast ConcatV2 ExpandDims GatherV2 Identity Pack Reshape Slice Split SplitV Squeeze StridedSlice Tile Transpose
    Unpack"""


def _is_given(values: Any) -> bool:
    """Return whether a tensor holds values of an input of the traced function as they are."""
    waiting = [values]
    while waiting:
        op = waiting.pop().op
        if op.type == "Placeholder":
            return True
        waiting += op.inputs if op.type in _MOVES.split() else []
    return False


def _minimum(first: Any, second: Any) -> Any:
    """Return min(x, 0) in another form; None if neither or both of the operands are 0."""
    import tensorflow as tf

    values = [tf.get_static_value(each) for each in (first, second)]
    zeros = [value is not None and not np.any(value) and np.ndim(value) == 0 for value in values]
    if zeros[0] == zeros[1]:
        return None
    return _below_zero(second if zeros[0] else first)


def _power(values: Any, exponent: Any) -> Any:
    """Return x^n as products for n = 3 and 4: POW has no integer form. None for other exponents."""
    import tensorflow as tf

    number = tf.get_static_value(exponent)
    if number is None or np.ndim(number) or number not in (3, 4):
        return None
    square = values * values
    return square * (values if number == 3 else square)


def _erf(values: Any) -> Any:
    """Return erf(x) with an absolute error of at most 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    import tensorflow as tf

    size = tf.abs(values)
    share = 1.0 / (1.0 + 0.3275911 * size)
    total = 0.0
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = (total + factor) * share
    return tf.sign(values) * (1.0 - total * tf.exp(-size * size))


def _inverse(name: str) -> Form:
    """Return asin, acos or atan of x as an angle between two sides."""

    def angle(values: Any) -> Any:
        import tensorflow as tf

        if name == "Atan":
            return tf.atan2(values, tf.ones_like(values))
        other = tf.sqrt(1.0 - values * values)
        return tf.atan2(values, other) if name == "Asin" else tf.atan2(other, values)

    return angle


def _tan(values: Any) -> Any:
    import tensorflow as tf

    return tf.sin(values) / tf.cos(values)


def _cosh(values: Any, sign: float = 1.0) -> Any:
    import tensorflow as tf

    return 0.5 * tf.exp(values) + sign * 0.5 * tf.exp(-values)


def _first_places(condition: Any, chosen: Any, values: Any) -> Any:
    """Return x where Keras 3 puts the least negative number instead of -0, for argmax and argmin to tell it from 0.

    It looks at the bits of x for that, which no operator of a file does. None for any other choice.
    """
    import tensorflow as tf

    number = tf.get_static_value(chosen)
    is_least = number is not None and np.ndim(number) == 0 and number == -np.finfo(np.float32).tiny
    return tf.identity(values) if is_least and _looks_at_bits(condition) else None


def _looks_at_bits(condition: Any) -> bool:
    """Return whether a condition is x == 0 and (bits of x & sign) < 0."""
    parts = [each.op for each in condition.op.inputs] if condition.op.type == "LogicalAnd" else []
    return any(part.type == "Less" and part.inputs[0].op.type == "BitwiseAnd" for part in parts)


PARTS_OF_OPERATORS = frozenset({"Erf"})
"""Operations that LiteRT lacks, unless the converter finds a whole operator around them: GELU written by hand."""
# What LiteRT has no operator for.
LACKING: dict[str, Form] = {
    "Acos": _inverse("Acos"),
    "Asin": _inverse("Asin"),
    "Atan": _inverse("Atan"),
    "Cosh": _cosh,
    "Erf": _erf,
    "SelectV2": _first_places,
    "Sinh": lambda values: _cosh(values, -1.0),
    "Tan": _tan,
}
# The converter builds Selu, Softplus and Expm1 from exp(x), whose range is that of its largest value; Elu is for floats
# only. Integers are never NaN.
FORMS: dict[str, Form] = {
    "Elu": _elu,
    "Expm1": _expm1,
    "IsNan": _never,
    "Minimum": _minimum,
    "Pow": _power,
    "Selu": lambda values: SELU_SCALE * _elu(values, SELU_ALPHA),
    "Softplus": _softplus,
}


def _sum_of_integers(values: Any, bias: Any, layout: bytes) -> Any:
    """Return a BiasAdd of integers, which Keras 3 makes of a sum with a vector, as a sum; None for channels first."""
    import tensorflow as tf

    return tf.raw_ops.AddV2(x=values, y=bias) if layout == b"NHWC" else None


def _keeps_state(graph: Any, function: str) -> bool:
    """Return whether a function of a graph has operations with side effects."""
    from tensorflow.python.framework import op_def_registry

    found = graph._get_function(function)
    if found is None:
        return True
    kinds = {node.op: op_def_registry.get(node.op) for node in found.cached_definition.node_def}
    return any(_keeps_state(graph, name) if kind is None else kind.is_stateful for name, kind in kinds.items())


def _all_but(without: Collection[str], forms: Mapping[str, Form]) -> dict[str, Form]:
    return {name: form for name, form in forms.items() if name not in without}


@contextmanager
def supported_forms(*, integers: bool, without: Collection[str] = ()) -> Iterator[None]:
    """Trace functions in the block with `LACKING`, and for integers `FORMS`, instead of operations on float tensors.

    Categories are counted and looked up by `category_forms`. Operations `without` a form stay as they are. A loop
    without side effects is marked as such: the converter drops it then from a loss that a layer adds, as of CTC, and
    crashes otherwise.
    """
    forms = _all_but(without, {**LACKING, **FORMS} if integers else LACKING)
    of_complex = _all_but(without, FOURIER)

    def create(original: Any, graph: Any, op_type: str, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        made = None
        if op_type == "While" and not _keeps_state(graph, kwargs["attrs"]["body"].func.name):
            op_type = "StatelessWhile"
        if op_type == "DenseBincount":
            made = counted(*map(graph.capture, inputs), binary=kwargs["attrs"]["binary_output"].b)
        elif op_type == "BiasAdd" and not inputs[-1].dtype.is_floating:
            values, bias = map(graph.capture, inputs)
            made = _sum_of_integers(values, bias, kwargs["attrs"]["data_format"].s)
        elif op_type in forms and inputs[-1].dtype.is_floating:
            made = forms[op_type](*map(graph.capture, inputs))
        elif op_type in of_complex:
            made = of_complex[op_type](*map(graph.capture, inputs))
        return original(graph, op_type, inputs, *args, **kwargs) if made is None else made.op

    with _operations_made_by(create), compared_lookups():
        yield


@contextmanager
def marked_results(kinds: Collection[str], mark: Callable[[Any], Any]) -> Iterator[None]:
    """Trace functions in the block with `mark` applied to the result of each operation of these `kinds`."""

    def create(original: Any, graph: Any, op_type: str, *args: Any, **kwargs: Any) -> Any:
        made = original(graph, op_type, *args, **kwargs)
        return mark(made.outputs[0]).op if op_type in kinds else made

    with _operations_made_by(create):
        yield


@contextmanager
def _operations_made_by(create: Callable[..., Any]) -> Iterator[None]:
    """Trace functions in the block with `create` in place of TensorFlow's method, its first argument."""
    from tensorflow.python.framework.func_graph import FuncGraph

    original = FuncGraph._create_op_internal
    FuncGraph._create_op_internal = lambda *args, **kwargs: create(original, *args, **kwargs)
    try:
        yield
    finally:
        FuncGraph._create_op_internal = original
