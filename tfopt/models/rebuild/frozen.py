"""The inference function of a SavedModel as one flat TensorFlow graph, with variables as constants."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfopt.base.stderr import native_noise_held
from tfopt.errors import ModelError

_COPIES = ("Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics", "EnsureShape")


class NoLayerError(ModelError):
    """A graph that cannot be rebuilt from Keras layers; the message names the operation that prevents it."""


class Frozen:
    """A function of one tensor with function calls inlined and variables made constants.

    Attributes:
        input, output: tensors of its graph.

    Raises:
        NoLayerError: TensorFlow cannot convert it to that form.
    """

    def __init__(self, function: Any) -> None:
        """Freeze `function`, a traced `tf.function` (ConcreteFunction) from one tensor to one tensor."""
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        variables = {id(variable.handle): variable for variable in function.variables}
        # The constant that replaces a variable has the name under which the function captured it.
        self._variables = {inner.op.name: variables.get(id(outer)) for outer, inner in function.graph.captures}
        try:
            with native_noise_held():
                frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
        except Exception as error:  # TensorFlow raises anything here: loops, tables and hidden state cannot be frozen
            raise NoLayerError(f"its graph cannot be frozen ({' '.join(str(error).split())[:200]})") from error
        self._function = _without_order(frozen)
        self.input, self.output = (self._function.graph.get_tensor_by_name(t.name) for t in _ends(frozen))
        self._constant: set[str] = set()
        for operation in self._function.graph.get_operations():  # in topological order
            if operation.type == "Const" or self._follows(operation):
                self._constant.add(operation.name)
        self._values: dict[str, np.ndarray] = {}

    def _follows(self, operation: Any) -> bool:
        """Return whether `operation` depends on constants only."""
        if not operation.inputs or operation.op_def.is_stateful:
            return False
        return all(tensor.op.name in self._constant for tensor in operation.inputs)

    def source(self, tensor: Any) -> Any:
        """Return the tensor that `tensor` is a mere copy of."""
        while tensor.op.type in _COPIES or _same_dtype(tensor.op):
            tensor = tensor.op.inputs[tensor.value_index]
        return tensor

    def same(self, a: Any, b: Any) -> bool:
        """Return whether two tensors are copies of the same one."""
        return bool(self.source(a).name == self.source(b).name)

    def is_constant(self, tensor: Any) -> bool:
        """Return whether `tensor` depends on no input."""
        return tensor.op.name in self._constant

    def value(self, tensor: Any) -> np.ndarray:
        """Return the value of a constant `tensor`."""
        import tensorflow as tf

        tensor = self.source(tensor)
        if tensor.op.type == "Const":
            return np.asarray(tf.make_ndarray(tensor.op.get_attr("value")))
        if tensor.name not in self._values:
            self._values[tensor.name] = self._function.prune([], tensor)().numpy()
        return self._values[tensor.name]

    def variables(self, tensor: Any) -> Iterator[Any]:
        """Yield the variables that a constant `tensor` was computed from."""
        waiting, seen = [tensor], set()
        while waiting:
            operation = waiting.pop().op
            if operation.name in seen:
                continue
            seen.add(operation.name)
            if (variable := self._variables.get(operation.name)) is not None:
                yield variable
            waiting += operation.inputs

    def until(self, tensor: Any) -> Any:
        """Return a function from the input to `tensor`."""
        return self._function.prune(self.input, tensor)


def _ends(function: Any) -> tuple[Any, Any]:
    (given,), (output,) = function.inputs, function.outputs
    return given, output


def _without_order(function: Any) -> Any:
    """Return the graph of `function` without control edges, which make even its constants wait for the input."""
    import tensorflow as tf

    definition = function.graph.as_graph_def()
    for node in definition.node:
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data)
    return tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])


def _same_dtype(operation: Any) -> bool:
    return bool(operation.type == "Cast" and operation.get_attr("SrcT") == operation.get_attr("DstT"))
