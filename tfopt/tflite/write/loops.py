"""Unroll loops that collect their steps, which no file with integer activations can hold.

`keras.ops.scan` and `map`, `tf.map_fn`, `tf.scan`, `tf.foldl` and TensorArrays in loops become loops over lists of
tensors in the file, and the converter crashes when it looks for the ranges of such values. While a model is traced,
such a loop is run in Python instead, and its arrays are lists. What is replaced is private in TensorFlow;
`tests/tflite/write/test_loops.py` detects changes to it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tfopt.base.overrides import Overrides, override_attributes
from tfopt.errors import ModelError
from tfopt.tflite.read.layer_names import layer_pattern

UNROLLED_AT_MOST = 128
"""Steps of a loop; each copies its operators."""
_MOST_PARTS = 200
"""Operations of which a number of steps is computed, at most."""
_UNKNOWN = "the number of its steps depends on the inputs"
_LONG = f"it has more than {UNROLLED_AT_MOST} steps"
_PLACES = "places in its arrays depend on the inputs"


class _CannotUnrollError(Exception):
    pass


def without_collecting_loops(trace: Callable[[], tuple[Any, Any]], layers: Sequence[str]) -> tuple[Any, Any]:
    """Return what `trace` returns, with loops unrolled if one of them collects its steps.

    Args:
        trace: returns a concrete function and what keeps its variables.
        layers: names of the model's layers, for the message.

    Raises:
        ModelError: such a loop has too many steps, or their number depends on the inputs.
    """
    traced = trace()
    if not _collecting(traced[0].graph):
        return traced
    try:
        with override_attributes(_overrides()):
            return trace()
    except _CannotUnrollError as error:
        why = next(reason for reason in (_UNKNOWN, _LONG, _PLACES) if reason in str(error))  # Keras adds a frame
        loops = _collecting(traced[0].graph)
        named = [layer for layer in layers if any(layer_pattern(layer).search(f"{loop};") for loop in loops)]
        raise ModelError(
            "The converter does not support integer activations for loops that collect their steps (scan, map_fn, "
            f"TensorArray), as in {', '.join(named) or loops[0]}, unless they can be unrolled: {why}. Give the loop "
            f'a fixed number of at most {UNROLLED_AT_MOST} steps, or choose activations="float32".'
        ) from None


def _collecting(graph: Any) -> list[str]:
    """Return the names of the loops in a function with lists of tensors among their values."""
    loops = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
    return [op.name for op in loops if any(tensor.dtype.name == "variant" for tensor in op.inputs)]


def _overrides() -> Overrides:
    from tensorflow.python.ops import tensor_array_ops, while_loop

    return [
        (while_loop, "while_loop", _unrolled),
        (tensor_array_ops, "_GraphTensorArrayV2", _list_of_tensors()),
    ]


def _unrolled(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    loop_vars: Any,
    *_: Any,
    maximum_iterations: Any = None,
    return_same_structure: bool = False,
    **__: Any,
) -> Any:
    """Return the values after the loop, as `tf.while_loop` does."""
    most, steps, values = _number(maximum_iterations), 0, list(_with_constants(list(loop_vars)))
    if maximum_iterations is not None and most is None:
        raise _CannotUnrollError(_UNKNOWN)
    while most is None or steps < most:
        goes_on = _number(cond(*values))
        if goes_on is None:
            raise _CannotUnrollError(_UNKNOWN)
        if not goes_on:
            break
        if steps == UNROLLED_AT_MOST:
            raise _CannotUnrollError(_LONG)
        after = body(*values)
        values = list(_with_constants(list(after) if isinstance(after, list | tuple) else [after]))
        steps += 1
    return values[0] if len(values) == 1 and not return_same_structure else values


def _with_constants(values: Any) -> Any:
    """Return the same structure of tensors, in which known integers are constants."""
    import tensorflow as tf

    def constant(value: Any) -> Any:
        if isinstance(value, tf.TensorArray):
            return value
        tensor = tf.convert_to_tensor(value)
        number = _number(tensor) if tensor.dtype.is_integer and tensor.shape.rank == 0 else None
        return tensor if number is None else tf.constant(number, tensor.dtype)

    return tf.nest.map_structure(constant, values)


def _number(value: Any) -> Any:
    """Return the value of a scalar if it does not depend on the inputs or weights of the model; else None."""
    import tensorflow as tf

    if not tf.is_symbolic_tensor(value):
        return value.numpy() if isinstance(value, tf.Tensor) else value
    if (known := tf.get_static_value(value)) is not None:
        return known
    if not _is_constant(value):
        return None
    with tf.init_scope(), tf.compat.v1.Session(graph=value.graph) as session:
        return session.run(value)


def _is_constant(tensor: Any) -> bool:
    seen: set[str] = set()
    waiting = [tensor.op]
    while waiting and len(seen) < _MOST_PARTS:
        op = waiting.pop()
        if op.type.startswith("Placeholder") or op.op_def.is_stateful:
            return False
        seen.add(op.name)
        waiting += [each.op for each in op.inputs if each.op.name not in seen]
    return not waiting


def _list_of_tensors() -> Any:
    """Return the class of the arrays that TensorFlow uses outside of graphs, for constant places in a graph."""
    from tensorflow.python.ops import tensor_array_ops

    eager: Any = tensor_array_ops._EagerTensorArray

    class ListOfTensors(eager):  # type: ignore[misc]
        def __init__(self, dtype: Any, size: Any = None, **settings: Any) -> None:
            super().__init__(dtype, size=int(_place(size)), **settings)

        def read(self, index: Any, name: str | None = None) -> Any:
            return super().read(_place(index), name)

        def _write(self, index: Any, value: Any) -> None:
            super()._write(_place(index), value)

        def gather(self, indices: Any, name: str | None = None) -> Any:
            return super().gather(_place(indices), name)

    return ListOfTensors


def _place(index: Any) -> Any:
    known = _number(index)
    if known is None:
        raise _CannotUnrollError(_PLACES)
    return known
