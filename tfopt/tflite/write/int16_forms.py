"""Make operators without a right form for int16 activations of operators that have one, in the float graph."""

import math
from typing import Any

import numpy as np
from typing_extensions import override

from tfopt.tflite.read.flatbuffer import items, new_operator
from tfopt.tflite.write.float_forms import added_like
from tfopt.tflite.write.replacements import Replacements


def with_int16_forms(model: Any, subgraph: Any) -> bool:
    """Make ADD, SUB, MUL, RSQRT and MEAN of other operators, such as those of normalization layers. For `rewritten`.

    With int16 activations SQUARED_DIFFERENCE, HARD_SWISH and L2_NORMALIZATION have no form, SUM computes something
    else, and a SUB from a constant of zeros aborts the process (TensorFlow 2.21).
    """
    return _Forms(model, subgraph).made()


class _Forms(Replacements):
    def __init__(self, model: Any, subgraph: Any) -> None:
        super().__init__(model, subgraph)
        self._makers = {
            self._kinds.SQUARED_DIFFERENCE: self._squared_difference,
            self._kinds.SUB: self._difference,
            self._kinds.SUM: self._sum,
            self._kinds.HARD_SWISH: self._hard_swish,
            self._kinds.L2_NORMALIZATION: self._unit_length,
            self._kinds.DIV: self._quotient,
            self._kinds.PRELU: self._bent,
            self._kinds.SQRT: self._root,
        }

    @override
    def of(self, operator: Any) -> list[Any]:
        make = self._makers.get(self._kind(operator))
        output = int(operator.outputs[0])
        if make is None or self._type(output) != self._types.FLOAT32:
            return []
        return make(operator, [int(index) for index in items(operator.inputs)], output)

    def _squared_difference(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        del operator
        between = self._like(output)
        return [self._operator("SUB", inputs, between), self._operator("MUL", [between, between], output)]

    def _difference(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        zeros, other = inputs
        if not self._is_zero(zeros):
            return []
        minus = np.full(self._shape(zeros), -1, np.float32)  # in this shape, since it may be larger than the other
        return [self._operator("MUL", [other, self._constant(minus)], output, _fused(operator))]

    def _sum(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        axes, sizes = self._stored(inputs[1]), self._signature(inputs[0]) or self._shape(inputs[0])
        if axes is None or any(sizes[axis] < 0 for axis in axes.view(np.int32)):
            return []  # how many values are summed is not known
        summands = math.prod(sizes[axis] for axis in axes.view(np.int32))
        average = self._like(output)
        mean = new_operator(self._model, self._kinds.MEAN, inputs, [average], operator.builtinOptions)
        return [mean, self._operator("MUL", [average, self._number(summands)], output)]

    def _hard_swish(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        """Make x min(max(x + 3, 0), 6) / 6."""
        del operator
        gate, product = self._like(output), self._like(output)
        return [
            self._operator("ADD", [*inputs, self._number(3)], gate, self._activations.RELU6),
            self._operator("MUL", [*inputs, gate], product),
            self._operator("MUL", [product, self._number(1 / 6)], output),
        ]

    def _unit_length(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        """Make x / sqrt(sum of x^2 over the last axis), as x / sqrt(mean of x^2) times a constant."""
        shape = self._shape(output)
        if _fused(operator) or len(shape) < 2 or any(size < 0 for size in self._signature(output)[-1:]):
            return []
        square, narrow = self._like(output), (*shape[:-1], 1)
        average, inverse = (added_like(self._subgraph, self._subgraph.tensors[output], narrow) for _ in range(2))
        last = self._constant(np.array([len(shape) - 1], np.int32))
        options = self._schema.ReducerOptionsT()
        options.keepDims = True
        mean = new_operator(self._model, self._kinds.MEAN, [square, last], [average], options)
        scaled = self._like(output)
        return [
            self._operator("MUL", [*inputs, *inputs], square),
            mean,
            self._operator("RSQRT", [average], inverse),
            self._operator("MUL", [*inputs, inverse], scaled),
            self._operator("MUL", [scaled, self._number(1 / math.sqrt(shape[-1]))], output),
        ]

    def _quotient(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        """Make x / y of r = 1 / sqrt(y), as x r r; where y may be negative, of r = 1 / sqrt(y^2), as (x r) (y r)."""
        dividend, divisor = inputs
        if self._stored(divisor) is not None:
            return []  # TensorFlow multiplies by a constant
        inverse, scaled, second = self._like(divisor), self._like(output), self._like(divisor)
        if self._is_positive(divisor):
            roots, second = [self._operator("RSQRT", [divisor], inverse)], inverse
        else:
            square = self._like(divisor)
            roots = [
                self._operator("MUL", [divisor, divisor], square),
                self._operator("RSQRT", [square], inverse),
                self._operator("MUL", [divisor, inverse], second),
            ]
        first = self._operator("MUL", [dividend, inverse], scaled)
        return [*roots, first, self._operator("MUL", [scaled, second], output, _fused(operator))]

    def _bent(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        """Make PReLU, x or a x below 0, as (1 + a) / 2 x + (1 - a) / 2 |x|."""
        del operator
        values, slopes = inputs
        found = self._stored(slopes)
        if found is None:
            return []
        slope = found.view(np.float32).reshape(self._shape(slopes))
        size, straight, folded = self._like(output), self._like(output), self._like(output)
        return [
            self._operator("ABS", [values], size),
            self._operator("MUL", [values, self._constant((1 + slope) / 2)], straight),
            self._operator("MUL", [size, self._constant((1 - slope) / 2)], folded),
            self._operator("ADD", [straight, folded], output),
        ]

    def _root(self, operator: Any, inputs: list[int], output: int) -> list[Any]:
        """Make sqrt(x) as x / sqrt(x), unless x may be 0."""
        del operator
        if not self._is_positive(inputs[0]):
            return []
        inverse = self._like(output)
        return [self._operator("RSQRT", inputs, inverse), self._operator("MUL", [*inputs, inverse], output)]

    def _is_positive(self, tensor: int) -> bool:
        """Return whether all values of the tensor were positive in calibration."""
        ranges = self._subgraph.tensors[tensor].quantization
        return ranges is not None and bool(len(items(ranges.min))) and float(ranges.min[0]) > 0

    def _signature(self, tensor: int) -> list[int]:
        """Return the sizes of the tensor, -1 where they are free; [] if all are fixed."""
        return [int(size) for size in items(self._subgraph.tensors[tensor].shapeSignature)]


def _fused(operator: Any) -> int:
    return int(operator.builtinOptions.fusedActivationFunction)
