"""Read the training inputs for activation ranges batch by batch, and report how well they cover the values."""

import functools
import inspect
import itertools
import keyword
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras, unwrapped
from tfopt.errors import DataError
from tfopt.graph import keras_internals
from tfopt.graph.types import flatten
from tfopt.graph.walk import valid_name
from tfopt.tflite.read import LiteModel, Op, Port, Tensor
from tfopt.tflite.read.layer_names import LayerNames

SAMPLES_AT_ONCE = 32
# With fewer samples, the extremes of a layer are usually not among its values.
FEWEST_SAMPLES = 32
# Samples not used for the ranges, on which they are tested; fewer prove nothing.
HELD_OUT_SAMPLES = 32
# Most samples on which the outputs are proven; a generator is read for that many more.
PROOF_SAMPLES = 128
# A larger share of held-out values out of range is reported.
MOST_CLIPPED = 0.01
# Operators that compute new values; others only move or select values that may have been clipped before.
COMPUTING = frozenset(
    {"ADD", "BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "DIV", "FULLY_CONNECTED", "LEAKY_RELU", "MUL"}
    | {"PRELU", "SUB", "SUM", "TRANSPOSE_CONV"}
)
RELU6_TOP = 6.0


class Calibration:
    """Up to `number` training inputs, read again for every iteration, with `SAMPLES_AT_ONCE` in memory at a time.

    After `bind`, iterating yields single samples, {name of the input in the file: array (1, ...) of its dtype}; for a
    model with a fixed batch size, that many at a time, of which the last may repeat.

    Args:
        data: an array (batch first), a tf.data of batches (inputs, or inputs and labels), or a `tfopt.data.Dataset`;
            for several inputs, a list of arrays in their order or a dict by name.
        number: maximum number of samples.
    """

    def __init__(self, data: Any, number: int) -> None:
        if isinstance(data, str | os.PathLike):
            raise DataError(f"representative_data must be samples, not a path; got {str(data)!r}. Use tfopt.load_data.")
        self._data, self.number = data, number
        self._flat_model: Any = None
        self.count = 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def bind(self, flat_model: Any) -> "Calibration":
        """Bind the data to the inputs of `flat_model`, set `shapes` (of one sample, without batch), and return self.

        Raises:
            DataError: the data does not fit the inputs, or has no samples.
        """
        self._flat_model = flat_model
        first = next(self._batches(), None)
        if first is None or not len(first[0]):
            raise DataError("representative_data has no samples; int8 and int16 activations need some for ranges.")
        for array, tensor in zip(first, flat_model.inputs, strict=True):
            sizes = zip(tensor.shape[1:], array.shape[1:], strict=False)
            if array.ndim != len(tensor.shape) or any(size not in (None, given) for size, given in sizes):
                raise DataError(
                    f"representative_data for the input '{tensor.name}' must have shape {tuple(tensor.shape)}, batch "
                    f"first; got {array.shape}."
                )
        self.shapes = {name: array.shape[1:] for name, array in zip(argument_names(flat_model), first, strict=True)}
        return self

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batch = static_batch(self._flat_model)
        samples, number = itertools.islice(self._samples(), self.number), 0
        while rows := list(itertools.islice(samples, batch)):
            number += len(rows)
            self.count = max(self.count, number)
            rows += rows[-1:] * (batch - len(rows))
            yield {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if batch > 1 else rows[0]

    def batches(self) -> Iterator[list[np.ndarray]]:
        """Yield the same samples in batches of at most `SAMPLES_AT_ONCE`: float32 arrays, one per input."""
        left = self.number
        for arrays in self._batches():
            with np.errstate(over="ignore"):
                narrow = [np.asarray(array[:left], np.float32) for array in arrays]
            for name, array in zip(argument_names(self._flat_model), narrow, strict=True):
                _check_finite(name, array, self.number - left)
            yield narrow
            left -= len(arrays[0])
            if left <= 0:
                return

    def held_out(self, count: int) -> dict[str, np.ndarray] | None:
        """Return up to `count` other samples by input name, from the validation or test part, or after the last one."""
        if hasattr(self._data, "representative_batches"):
            part = self._data.validation if len(self._data.validation) else self._data.test
            return self._by_name(part.x(part.spread(count))) if len(part) else None
        return self._rows(self.number, count)

    def for_proof(self, count: int) -> tuple[dict[str, np.ndarray], bool]:
        """Return up to `count` samples by input name, and whether they are held out, if that many exist."""
        held_out = self.held_out(count)
        if held_out is not None and len(next(iter(held_out.values()))) >= HELD_OUT_SAMPLES:
            return held_out, True
        if hasattr(self._data, "representative_batches"):
            return self._by_name(self._data.representative(count)), False
        rows = self._rows(0, count)
        assert rows is not None  # `bind` saw one
        return rows, False

    def _by_name(self, inputs: Any) -> dict[str, np.ndarray]:
        return dict(zip(argument_names(self._flat_model), per_input(self._flat_model, inputs), strict=True))

    def _rows(self, start: int, count: int) -> dict[str, np.ndarray] | None:
        rows = list(itertools.islice(self._samples(), start, start + count))
        if not rows:
            return None
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def notes(self, named: LiteModel, names: LayerNames) -> list[str]:
        """Return notes on the number of samples used and on the values that the ranges of the file `named` clip."""
        if not self.count:
            return []
        few = f" (few, below {FEWEST_SAMPLES}: ranges may be too narrow)" if self.count < FEWEST_SAMPLES else ""
        samples = "sample" if self.count == 1 else "samples"
        lines = [f"activation ranges from {self.count} training {samples}{few}"]
        held_out = self.held_out(HELD_OUT_SAMPLES)
        if held_out and (clipped := clipped_shares(named, held_out, names)):
            shares = ", ".join(f"{name} {share:.1%}" for name, share in clipped.items())
            lines.append(f"more than {MOST_CLIPPED:.0%} of the values of held-out samples are out of range: {shares}")
        return lines

    def _samples(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield single samples by input name, since the converter orders inputs differently."""
        names = argument_names(self._flat_model)
        types = [tensor.dtype.as_numpy_dtype for tensor in self._flat_model.inputs]
        number = 0
        for arrays in self._batches():
            with np.errstate(over="ignore", invalid="ignore"):
                typed = [array.astype(dtype) for array, dtype in zip(arrays, types, strict=True)]
            for name, given, array in zip(names, arrays, typed, strict=True):
                _check_whole(name, given, array, number)
                _check_finite(name, array, number)
            number += len(typed[0])
            for row in range(len(typed[0])):
                yield {name: array[row : row + 1] for name, array in zip(names, typed, strict=True)}

    def _batches(self) -> Iterator[list[np.ndarray]]:
        """Yield batches with one array per input."""
        if hasattr(self._data, "representative_batches"):
            for batch in self._data.representative_batches(max(self.number, 1), SAMPLES_AT_ONCE):
                yield per_input(self._flat_model, batch)
        elif hasattr(self._data, "as_numpy_iterator"):
            for element in self._data.as_numpy_iterator():
                yield per_input(self._flat_model, element[0] if isinstance(element, tuple) else element)
        else:
            arrays = per_input(self._flat_model, self._data)
            for start in range(0, len(arrays[0]) if arrays[0].ndim else 1, SAMPLES_AT_ONCE):
                yield [array[start : start + SAMPLES_AT_ONCE] if array.ndim else array for array in arrays]


def without_generator(data: Any, number: int) -> Any:
    """Return `data`, or the samples of a generator as arrays: one, a list with one per input, or a dict.

    Args:
        data: as for `Calibration`; or, as for TFLiteConverter, a generator of lists or dicts with a batch of each
            input, or the function that makes it.
        number: of samples to read for the ranges; `PROOF_SAMPLES` more are read to prove the outputs on.

    Raises:
        DataError: there are none, or they are no arrays of one form.
    """
    if _is_numbered(data):
        data = map(_without_labels, map(data.__getitem__, range(len(data))))
    if not isinstance(data, Iterator) and not inspect.isroutine(data) and not isinstance(data, functools.partial):
        return data
    found: list[dict[Any, np.ndarray]] = []
    count = 0
    for batch in data if isinstance(data, Iterator) else _started(data):
        found.append(_parts(batch))
        if found[-1].keys() != found[0].keys():
            raise DataError(f"{_BATCHES}, got {list(found[-1])} after {list(found[0])}.")
        count += len(next(iter(found[-1].values())))
        if count >= number + PROOF_SAMPLES:
            break
    if not count:
        raise DataError("The generator of representative_data gives no samples.")
    try:
        arrays = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    except ValueError as error:
        raise DataError(f"{_BATCHES}; {error}.") from error
    if all(isinstance(name, str) for name in arrays):
        return arrays
    return list(arrays.values()) if len(arrays) > 1 else arrays[0]


def _is_numbered(data: Any) -> bool:
    """Return whether `data` is a PyDataset of Keras 3, or a Sequence of tf_keras."""
    kinds = [tf_keras().utils.Sequence]
    if "keras" in sys.modules:  # otherwise there is none, and an import takes a second
        kinds.append(sys.modules["keras"].utils.PyDataset)
    return isinstance(data, tuple(kinds))


def _without_labels(batch: Any) -> Any:
    """Return the inputs of a batch (x, y), as a list or dict of arrays."""
    inputs = batch[0] if isinstance(batch, tuple) else batch
    return inputs if isinstance(inputs, list | tuple | dict) else [inputs]


_BATCHES = "Expected a generator of batches of one form, each a list (or dict) with an array per input, without labels"


def _started(function: Any) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise DataError(f"{_BATCHES}; its function cannot be called without arguments: {error}.") from error
    made = function()
    if not isinstance(made, Iterable):
        raise DataError(f"{_BATCHES}; its function returns {type(made).__name__}.")
    return made


def _parts(batch: Any) -> dict[Any, np.ndarray]:
    """Return the arrays of a batch, by position or by name. Raise DataError unless they have equally many samples."""
    given = dict(batch) if isinstance(batch, Mapping) else batch
    if not isinstance(given, dict):
        given = dict(enumerate(given if isinstance(given, list | tuple) else [given]))
    if isinstance(batch, tuple) and any(isinstance(part, Mapping | list | tuple) for part in given.values()):
        raise DataError(f"{_BATCHES}; got a tuple of structures. For inputs and labels, yield the inputs alone.")
    try:
        arrays = {name: np.asarray(part) for name, part in given.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{_BATCHES}; {error}.") from error
    wrong = [array for array in arrays.values() if array.ndim == 0 or array.dtype.kind not in "biufSUO"]
    if wrong or not arrays or any(array.dtype == object and array.ndim == 0 for array in arrays.values()):
        raise DataError(f"{_BATCHES}, got {' and '.join(map(_described, given.values())) or 'an empty one'}.")
    if len({len(array) for array in arrays.values()}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays.values())
        raise DataError(
            f"Expected equally many samples of all inputs in a batch of representative_data, got arrays of {shapes}."
        )
    return arrays


def _described(part: Any) -> str:
    return f"{type(part).__name__} {part!r}"[:60]


def _check_finite(name: str, array: np.ndarray, before: int) -> None:
    """Raise DataError for NaN or infinity in samples of an input, of which the first has the index `before`."""
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"representative_data for the input '{name}' has NaN, infinity or a number too large for {array.dtype} in "
            f"sample {before + int(np.argmin(finite))}; expected finite numbers. Remove or replace it."
        )


def _check_whole(name: str, given: np.ndarray, array: np.ndarray, before: int) -> None:
    """Raise DataError if the samples `given` for an input of integers, such as words of a text, are not integers."""
    if given.dtype.kind != "f" or array.dtype.kind not in "iu":
        return
    whole = (given == array).reshape(len(array), -1).all(axis=1)
    if not whole.all():
        raise DataError(
            f"representative_data for the input '{name}' must have {array.dtype} numbers, which the model looks up in "
            f"a table; sample {before + int(np.argmin(whole))} has others. Pass the indices as they are, not scaled."
        )


def static_batch(flat_model: Any) -> int:
    """Return the batch size that an input of `flat_model` fixes; 1 if all leave it free."""
    return next((int(tensor.shape[0]) for tensor in flat_model.inputs if tensor.shape[0]), 1)


def argument_names(flat_model: Any) -> list[str]:
    """Return the names of the inputs in the file: those in Keras, except Python keywords, which signatures reject."""
    return [f"{name}_" if keyword.iskeyword(name) or name == "self" else name for name in flat_model.input_names]


def output_names(flat_model: Any) -> list[str]:
    """Return the names of the outputs in the file, in the order of the model: the keys of a dict, else those of layers.

    The layers are those from before wrapping.
    """
    _, struct = keras_internals.structs(flat_model)
    if isinstance(struct, dict) and set(map(type, struct)) == {str} and len(flatten(struct)) == len(struct):
        return sorted(struct)
    inside = {layer.name: unwrapped(layer).name for layer in flat_model.layers}
    return [inside.get(name, name) for name in flat_model.output_names]


def per_input(flat_model: Any, inputs: Any) -> list[np.ndarray]:
    """Return one array per input of `flat_model`, from any structure of inputs."""
    names = flat_model.input_names
    if isinstance(inputs, Mapping):
        ordered = [inputs[key] for key in _keys(flat_model, inputs)]
    else:
        several = isinstance(inputs, (list, tuple)) and (len(names) > 1 or len(inputs) == 1)
        ordered = list(inputs) if several else [inputs]
    if len(ordered) != len(names):
        raise DataError(
            f"The model '{flat_model.name}' has {len(names)} inputs, {names}; the representative_data has "
            f"{len(ordered)}. Pass one array for each, as a list in that order or as a dict by name."
        )
    try:
        arrays = [np.asarray(array) for array in ordered]
    except ValueError as error:
        raise DataError(
            f"Expected an array of samples for each input of '{flat_model.name}' as representative_data, without "
            f"labels; {error}."
        ) from error
    if objects := [
        each for each, array in zip(ordered, arrays, strict=True) if array.ndim == 0 and array.dtype == object
    ]:
        raise DataError(
            "Expected arrays, a tf.data of batches, a tfopt.Dataset or a generator as representative_data, got "
            f"{type(objects[0]).__name__}."
        )
    if texts := [name for name, array in zip(names, arrays, strict=True) if array.dtype.kind in "OSU"]:
        raise DataError(
            f"Expected numbers for each input as representative_data, got texts or objects for '{texts[0]}'. LiteRT "
            "has no texts: look words up before the model, and pass it their numbers."
        )
    return arrays


def _keys(flat_model: Any, inputs: Mapping[str, Any]) -> list[str]:
    """Return the keys of `inputs` in the order of the model's inputs: their names, or the keys of a dict of inputs."""
    if set(inputs) == set(flat_model.input_names):
        return list(flat_model.input_names)
    struct, _ = keras_internals.structs(flat_model)
    if isinstance(struct, dict) and set(struct) == set(inputs):
        return sorted(inputs)
    valid = {valid_name(name): name for name in inputs}  # "left eye" is the left_eye of a flat model
    if set(valid) == set(flat_model.input_names):
        return [valid[name] for name in flat_model.input_names]
    raise DataError(
        f"The inputs of the model '{flat_model.name}' are {flat_model.input_names}; representative_data has "
        f"{list(inputs)}. Use these names."
    )


def clipped_shares(lite: LiteModel, samples: Mapping[str, np.ndarray], names: LayerNames) -> dict[str, float]:
    """Return the share of clipped values of inputs and layers of an integer file, if above `MOST_CLIPPED`.

    The values of an input are compared with its range. Computed values count if they lie at an end of their range,
    unless that is zero, as for a ReLU, or the six of a ReLU6.
    """
    shares = {port.name: _outside(samples[port.name], range_) for port, range_ in _input_ranges(lite)}
    tensors = {tensor.index: tensor for tensor in lite.tensors() if tensor.subgraph == 0}
    computed = [op for op in lite.ops() if op.subgraph == 0 and op.name in COMPUTING]
    integers = [op for op in computed if tensors[op.outputs[0]].scales]
    values = lite.signals(samples) if integers else {}
    for op in integers:
        name = ", ".join(names.near(op)) or op.name
        shares[name] = max(shares.get(name, 0.0), _at_ends(values[op.outputs[0]], tensors[op.outputs[0]]))
    return {name: share for name, share in shares.items() if share > MOST_CLIPPED}


def _input_ranges(lite: LiteModel) -> Iterator[tuple[Port, Tensor | Port]]:
    """Yield the inputs, each with the port or tensor that has its range: itself, or its immediately rounded value."""
    tensors = {tensor.index: tensor for tensor in lite.tensors() if tensor.subgraph == 0}

    def rounds(op: Op, port: Port) -> bool:
        return op.subgraph == 0 and op.name == "QUANTIZE" and op.inputs[0] == port.index

    for port in lite.inputs:
        rounded = [tensors[op.outputs[0]] for op in lite.ops() if rounds(op, port)]
        if port.scales or rounded:
            yield port, port if port.scales else rounded[0]


def _ends(stored: Tensor | Port) -> tuple[float, float, float]:
    """Return (lowest, highest, step) of the real values that an integer tensor can hold."""
    limits, scale = np.iinfo(stored.dtype), stored.scales[0]
    low, high = (scale * (end - stored.zero_points[0]) for end in (limits.min, limits.max))
    return low, high, scale


def _outside(values: np.ndarray, stored: Tensor | Port) -> float:
    low, high, step = _ends(stored)
    return float(np.mean((values < low - step / 2) | (values > high + step / 2)))


def _at_ends(values: np.ndarray, stored: Tensor) -> float:
    low, high, step = _ends(stored)
    above = values > high - step / 2 if abs(high - RELU6_TOP) > step else np.zeros_like(values, bool)
    below = values < low + step / 2 if low < 0 else np.zeros_like(values, bool)
    return float(np.mean(above | below))
