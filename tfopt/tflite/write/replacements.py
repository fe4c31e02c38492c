"""Replace operators of a float graph by others that compute the same."""

from typing import Any

import numpy as np

from tfopt.tflite.read.flatbuffer import drop_unused_codes, items, kind_of, new_operator, stored
from tfopt.tflite.write.float_forms import added_constant, added_like


class Replacements:
    """The replacements of the operators of a subgraph; a subclass says what they are in `of`."""

    def __init__(self, model: Any, subgraph: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._subgraph, self._schema = model, subgraph, schema
        self._kinds, self._types, self._activations = (
            schema.BuiltinOperator,
            schema.TensorType,
            schema.ActivationFunctionType,
        )

    def of(self, operator: Any) -> list[Any]:
        """Return operators that compute the same as `operator`; [] to keep it."""
        raise NotImplementedError

    def made(self) -> bool:
        """Replace the operators of the subgraph, and return whether there are any to replace."""
        before = list(items(self._subgraph.operators))
        made = [self.of(operator) for operator in before]
        if not any(made):
            return False
        self._subgraph.operators = [one for new, old in zip(made, before, strict=True) for one in new or [old]]
        drop_unused_codes(self._model)
        return True

    def _kind(self, operator: Any) -> int:
        return kind_of(self._model.operatorCodes[operator.opcodeIndex])

    def _operator(self, name: str, inputs: list[int], output: int, fused: int = 0) -> Any:
        """Return a new operator; `fused` is the number of its activation function."""
        options = None
        if name in ("ADD", "SUB", "MUL"):
            options = getattr(self._schema, f"{name.capitalize()}OptionsT")()
            options.fusedActivationFunction = fused
        return new_operator(self._model, getattr(self._kinds, name), inputs, [output], options)

    def _like(self, tensor: int, dtype: int | None = None) -> int:
        """Add a tensor of the shape of another one, of its type or of `dtype`."""
        made = added_like(self._subgraph, self._subgraph.tensors[tensor], self._shape(tensor))
        if dtype is not None:
            self._subgraph.tensors[made].type = dtype
        return made

    def _number(self, value: float) -> int:
        return self._constant(np.array([value], np.float32))

    def _constant(self, values: np.ndarray) -> int:
        return added_constant(self._model, self._subgraph, values)

    def _type(self, tensor: int) -> int:
        return int(self._subgraph.tensors[tensor].type)

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(size) for size in items(self._subgraph.tensors[tensor].shape))

    def _stored(self, tensor: int) -> np.ndarray | None:
        """Return the bytes of a constant; None for any other tensor."""
        return stored(self._model, self._subgraph.tensors[tensor])

    def _is_zero(self, tensor: int) -> bool:
        """Return whether a float tensor is a constant of zeros."""
        found = self._stored(tensor)
        return found is not None and not found.view(np.float32).any()
