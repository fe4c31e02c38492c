"""LiteModel: run a .tflite with LiteRT, in the units of the original model."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfopt.base import native, sandbox
from tfopt.base.files import is_special
from tfopt.base.packing import unpack
from tfopt.base.reading import reading
from tfopt.base.stderr import native_noise_held
from tfopt.base.weight_statistics import deflated_bytes
from tfopt.data import FrontEnd
from tfopt.errors import CannotRunError, DataError, ModelError
from tfopt.graph.walk import valid_name
from tfopt.tflite.read.graph import FileGraph
from tfopt.tflite.read.index_values import IndexValues, index_values
from tfopt.tflite.read.macs import macs_of
from tfopt.tflite.read.metadata import FileMetadata, metadata_of
from tfopt.tflite.read.parts import Op, Port, Tensor, Weight
from tfopt.tflite.read.ports import dequantized, noise, nothing, quantized

Shapes = tuple[tuple[int, ...], ...]
_TRIAL = "tfopt.tflite.read.trial:run"
Inputs = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of one invocation on `batch` samples, over `runs` invocations."""

    median_ms: float
    p90_ms: float
    threads: int
    runs: int
    batch: int = 1


class LiteModel:
    """A .tflite file, packed (`tfopt.base.packing`) or not.

    What no child process has run yet is first opened and run in one (`tfopt.base.sandbox`), so that a file that crashes
    LiteRT is an error and does not end this process.

    Args:
        path_or_bytes: the path or the contents of the file.
        threads: the number of LiteRT's threads.

    Attributes:
        data: the bytes of the file, unpacked.
        notes: notes from the export by tfopt; empty for a file that was opened.
        layers: the Keras layers of each operator of the main graph, by its index, from the export by tfopt; empty for a
            file that was opened, which does not name them.

    Raises:
        ModelError: the file does not exist, is not a .tflite, or LiteRT cannot run it.

    Examples:
        >>> written = tfopt.export_tflite(model, "model.tflite", tfopt.Export(io="int8"), representative_data=data)
        >>> lite = tfopt.LiteModel("model.tflite")
        >>> lite.predict(x[:3]).shape, lite.labels[:3]
        ((3, 10), ('0', '1', '2'))
        >>> sorted({operator.name for operator in lite.ops()})
        ['CONV_2D', 'FULLY_CONNECTED', 'MEAN', 'SOFTMAX']
    """

    notes: tuple[str, ...] = ()
    layers: Mapping[int, str] = MappingProxyType({})

    def __init__(self, path_or_bytes: str | os.PathLike[str] | bytes, *, threads: int = 1) -> None:
        if not isinstance(path_or_bytes, str | os.PathLike | bytes):
            raise ModelError(f"Expected the path or the bytes of a .tflite, got a {type(path_or_bytes).__name__}.")
        if threads < 1:
            raise ModelError(f"Expected threads of at least 1, got {threads}.")
        name = "These bytes" if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
        self.data = unpack(path_or_bytes if isinstance(path_or_bytes, bytes) else _read(Path(path_or_bytes)), name)
        if self.data[4:8] != b"TFL3":
            raise ModelError(
                f"{name}: not a .tflite file. Its bytes 4 to 8 must be b'TFL3'; they are {self.data[4:8]!r}."
            )
        if isinstance(path_or_bytes, bytes):
            if not native.in_child():
                sandbox.try_bytes_first(_TRIAL, self.data, name)
        else:
            sandbox.try_first(_TRIAL, path_or_bytes)
        self.threads = threads
        self._interpreters: dict[Shapes, Any] = {}
        self._batches: dict[Shapes, int] = {}
        try:
            with reading(lambda why: CannotRunError(f"LiteRT cannot run it: {why}")):
                self._open()
        except ModelError as error:
            raise type(error)(f"{name}: {error}") from error

    def _open(self) -> None:
        interpreter = _interpreter(self.data, self.threads)  # verifies the flatbuffer that FileGraph reads
        self._graph = FileGraph(self.data)
        if not any(None in port.shape[1:] for port in self.inputs):  # otherwise it needs a sample's shape
            with native_noise_held():  # LiteRT logs the delegate that it created
                interpreter.allocate_tensors()
            own = tuple(tuple(axis or 1 for axis in port.shape) for port in self.inputs)
            self._interpreters[own] = interpreter

    def __repr__(self) -> str:
        """Return the inputs, outputs, number of operators and size, not the bytes."""
        sides = (self.inputs, self.outputs)
        ends = (", ".join(f"{port.name} {port.dtype} {port.shape}" for port in ports) for ports in sides)
        return f"LiteModel({' -> '.join(ends)}; {len(self.ops())} operators, {self.size:,} bytes)"

    # Contents of the file

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self.data)

    @cached_property
    def deflated(self) -> int:
        """The size of the file in bytes after DEFLATE, see `deflated_bytes`."""
        return deflated_bytes(self.data)

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs, in the order of the signature, else of the graph: in files of tfopt, that of the Keras model."""
        return self._graph.ports("inputs")

    @cached_property
    def outputs(self) -> tuple[Port, ...]:
        """The outputs, in the order of the signature, else of the graph: in files of tfopt, that of the Keras model.

        A Keras model built with a dict of outputs has them in alphabetical order of its keys.
        """
        return self._graph.ports("outputs")

    @cached_property
    def metadata(self) -> FileMetadata:
        """What the file says about its classes and its images. Raises ModelError if it cannot be read."""
        return metadata_of(self._graph.model, self.data)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the file, in the order of the outputs, or ()."""
        return self.metadata.labels

    @property
    def preprocessing(self) -> FrontEnd | None:
        """How images were fed as floats, or what makes inputs of other samples, if the file says so."""
        return self.metadata.preprocessing

    def tensors(self) -> list[Tensor]:
        """Return all tensors of all subgraphs; nearly all files have one subgraph."""
        return [tensor for subgraph in self._graph.tensors for tensor in subgraph]

    def ops(self) -> list[Op]:
        """Return all operations of all subgraphs, in the order in which they run."""
        return list(self._graph.ops)

    def index_values(self) -> IndexValues:
        """Return what the first subgraph makes indices of, such as the numbers of words."""
        return index_values(self._graph.ops, {tensor.index: tensor for tensor in self._graph.tensors[0]})

    def values(self, tensor: Tensor) -> NDArray[Any]:
        """Return the stored values of a constant `tensor`. Raise ModelError for any other. See `FileGraph.values`."""
        return self._graph.values(tensor)

    def weights(self) -> list[Weight]:
        """Return the constants that ops multiply or look up, each once. See `FileGraph.weights`."""
        return self._graph.weights()

    def float_tensors(self) -> list[str]:
        """Return the names of the float tensors that ops compute with. See `FileGraph.float_tensors`."""
        return self._graph.float_tensors()

    def activation(self, op: Op) -> str:
        """Return the activation that is fused into `op`, e.g. "RELU"; "" if there is none."""
        return self._graph.activation(op)

    def settings(self, op: Op) -> dict[str, Any]:
        """Return the settings of `op` other than its activation, e.g. strides. See `FileGraph.settings`."""
        return self._graph.settings(op)

    # Running it

    def predict(self, x: Inputs, batch_size: int = 32) -> Any:
        """Return the outputs for N samples.

        Quantized inputs are quantized here (rounded half to even, as in LiteRT's QUANTIZE, and clamped), and quantized
        outputs are dequantized to float32.

        Args:
            x: (N, ...) in the model's real units, whatever the file stores. For several inputs, a list in the order of
                `inputs` or a mapping by name.
            batch_size: samples per run if the graph can be resized; otherwise the file's own batch size is used.

        Returns:
            An array (N, ...); for several outputs a list of arrays in the order of `outputs`, also for inputs by name.
            That is the order of the Keras model's outputs; of a model built with a dict of outputs it is alphabetical.
            By name: `dict(zip([port.name for port in lite.outputs], lite.predict(x), strict=True))`.

        Raises:
            DataError: `x` does not fit the inputs.
            ModelError: LiteRT fails.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1; got {batch_size}.")
        arrays = self._checked_inputs(x)
        count = len(arrays[0])
        if count == 0:
            return _single([nothing(port) for port in self.outputs])
        stored = [quantized(array, port) for array, port in zip(arrays, self.inputs, strict=True)]
        batch = self._usable_batch(min(batch_size, count), stored)
        parts = [self._run(batch, [array[i : i + batch] for array in stored]) for i in range(0, count, batch)]
        return _single([np.concatenate(arrays) for arrays in zip(*parts, strict=True)])

    def benchmark(self, x: Inputs | None = None, *, runs: int = 50, warmup: int = 10) -> Latency:
        """Return the latency of one sample; `x`, `runs`, `warmup` and errors as in `times`."""
        milliseconds, batch = self._timed(x, runs, warmup)
        return Latency(
            float(np.median(milliseconds)), float(np.percentile(milliseconds, 90)), self.threads, runs, batch
        )

    def times(self, x: Inputs | None = None, *, runs: int = 50, warmup: int = 10) -> NDArray[np.float64]:
        """Time invocations on one sample, without copying inputs and outputs.

        A graph that cannot be resized to one sample is timed at its own batch size.

        Args:
            x: a batch of at least one sample, of which the first is used; None for random numbers (zeros for integer
                inputs that are not quantized).
            runs: timed invocations.
            warmup: untimed invocations before them.

        Returns:
            Milliseconds, (runs,).
        """
        return self._timed(x, runs, warmup)[0]

    def _timed(self, x: Inputs | None, runs: int, warmup: int) -> tuple[NDArray[np.float64], int]:
        """Return the milliseconds of each invocation, and its batch size."""
        if runs < 1:
            raise DataError(f"Expected runs to be at least 1; got {runs}.")
        interpreter, batch = self._one_sample(x)
        times = np.empty(warmup + runs)
        for i in range(len(times)):
            start = time.perf_counter()
            interpreter.invoke()
            times[i] = time.perf_counter() - start
        return times[warmup:] * 1000, batch

    def macs(self, x: Inputs | None = None) -> int | None:
        """Return the multiply-accumulates of one sample, see `tfopt.tflite.read.macs`; None if they cannot be counted.

        Args:
            x: a batch of at least one sample, whose shape counts where the file leaves sizes free; None for a random
                one.

        Raises:
            DataError, ModelError: as in `predict`.
        """
        batch, shapes = self._own_batch, {tensor.index: tensor.shape for tensor in self._graph.tensors[0]}
        if any(None in port.shape for port in self.inputs):
            batch, shapes = self._shapes_of_one_sample(x)
        ops = [(op, self._graph.options(op)) for op in self.ops() if op.subgraph == 0]
        total = macs_of(ops, shapes)
        return None if total is None else total // batch

    def _shapes_of_one_sample(self, x: Inputs | None) -> tuple[int, dict[int, tuple[int, ...]]]:
        """Return the batch size and the shapes of all main-graph tensors in a run on the first sample of `x`."""
        arrays = self._checked_inputs(self.random_sample() if x is None else x)
        sample = [quantized(array[:1], port) for array, port in zip(arrays, self.inputs, strict=True)]
        batch = self._usable_batch(1, sample)
        interpreter = self._fresh_interpreter(_shapes(batch, sample), _interpreter(self.data, self.threads, trace=True))
        self._invoke(interpreter, batch, sample)
        return batch, {d["index"]: tuple(map(int, d["shape"])) for d in interpreter.get_tensor_details()}

    def signals(self, x: Inputs) -> dict[int, NDArray[Any]]:
        """Return the outputs of all operations of the main graph, in real units, by tensor index.

        Those that LiteRT does not keep, such as some states of a loop, are missing. All others are held in memory, so
        pass few samples at a time. Runs without delegates, which hide their intermediate results.

        Args:
            x: as in `predict`.

        Raises:
            DataError: as in `predict`.
            ModelError: as in `predict`.
        """
        stored = [quantized(array, port) for array, port in zip(self._checked_inputs(x), self.inputs, strict=True)]
        batch = self._usable_batch(len(stored[0]), stored)
        if batch != self._own_batch:
            # Without delegates, TRANSPOSE_CONV refuses another batch than that of the file.
            with contextlib.suppress(ModelError):
                return self._signals(batch, stored)
        return self._signals(self._own_batch, stored)

    def _signals(self, batch: int, stored: list[NDArray[Any]]) -> dict[int, NDArray[Any]]:
        interpreter = self._fresh_interpreter(_shapes(batch, stored), _interpreter(self.data, self.threads, trace=True))
        tensors = self._graph.tensors[0]
        computed = [tensors[index] for op in self.ops() if op.subgraph == 0 for index in op.outputs]
        parts: dict[int, list[NDArray[Any]]] = {tensor.index: [] for tensor in computed}
        for start in range(0, len(stored[0]), batch):
            rows = [array[start : start + batch] for array in stored]
            self._invoke(interpreter, batch, rows)
            for tensor in computed:
                try:
                    array = interpreter.get_tensor(tensor.index)
                except ValueError:  # LiteRT keeps no result of some operators, such as the states of a loop
                    continue
                batched = array.ndim > 0 and len(array) == batch
                parts[tensor.index].append(dequantized(array[: len(rows[0])] if batched else array[None], tensor))
        return {index: np.concatenate(arrays) for index, arrays in parts.items() if arrays}

    def _one_sample(self, x: Inputs | None) -> tuple[Any, int]:
        """Return an interpreter that has just run the first sample of `x`, and its batch size."""
        arrays = self._checked_inputs(self.random_sample() if x is None else x)
        if len(arrays[0]) == 0:
            raise DataError("A benchmark needs at least one sample; got none.")
        sample = [quantized(array[:1], port) for array, port in zip(arrays, self.inputs, strict=True)]
        batch = self._usable_batch(1, sample)
        self._run(batch, sample)
        return self._interpreter(_shapes(batch, sample)), batch

    def _checked_inputs(self, x: Inputs) -> list[NDArray[Any]]:
        """Return one array per input, in the order of `inputs`. Raise DataError if they do not fit."""
        names = [port.name for port in self.inputs]
        if isinstance(x, Mapping):
            x = {valid_name(name): array for name, array in x.items()} if set(x) != set(names) else x
            if set(x) != set(names):
                raise DataError(f"The model's inputs are {names}; got {sorted(x)}.")
            arrays = [np.asarray(x[name]) for name in names]
        else:
            arrays = [np.asarray(x)] if len(names) == 1 else [np.asarray(array) for array in _as_list(x)]
        if len(arrays) != len(names):
            raise DataError(f"The model has {len(names)} inputs, {names}; got {len(arrays)} arrays.")
        for array, port in zip(arrays, self.inputs, strict=True):
            if not _fits(array.shape, port.shape):
                expected = ("N", *("any" if axis is None else axis for axis in port.shape[1:]))
                raise DataError(
                    f"The input {port.name!r} expects shape ({', '.join(map(str, expected))}); got {array.shape}."
                )
        if len({len(array) for array in arrays}) > 1:
            raise DataError(f"The inputs {names} must have equal numbers of samples; got {[len(a) for a in arrays]}.")
        return arrays

    def _usable_batch(self, batch: int, stored: list[NDArray[Any]]) -> int:
        """Return `batch` if the graph gives the same two different rows after resizing, else its own batch size.

        After a resize, a Reshape with a fixed first axis fails or silently mixes samples. Equal rows cannot show it.
        """
        own = self._own_batch
        key = _shapes(batch, stored)
        if batch == own:
            return own
        if key not in self._batches:
            rows = [array[:batch] for array in stored]
            unlike = _unlike_first(rows)
            if unlike is None and batch > 1:
                return own
            self._batches[key] = batch if self._resizes(batch, own, rows, {0, unlike or 0}) else own
        return self._batches[key]

    def _resizes(self, batch: int, own: int, stored: list[NDArray[Any]], compared: set[int]) -> bool:
        try:
            resized = self._run(batch, stored)
        except ModelError:
            return False
        for row in compared:
            expected = self._run(own, [array[row : row + 1] for array in stored])
            for port, got, want in zip(self.outputs, resized, expected, strict=True):
                step = 2 * port.scales[0] if port.scales else 1e-3 * float(np.abs(want).max(initial=0))
                if got[row : row + 1].shape != want.shape or not np.allclose(got[row], want[0], 1e-3, step):
                    return False
        return True

    @property
    def _own_batch(self) -> int:
        """The batch size of the file; 1 if its batch axis is free."""
        return self.inputs[0].shape[0] or 1

    def _interpreter(self, shapes: Shapes) -> Any:
        """Return an interpreter whose inputs have these shapes. Raise ModelError if LiteRT cannot make one."""
        if shapes not in self._interpreters:
            # Each has its own packed weights and activations: keep a few, not one per sequence length.
            if len(self._interpreters) >= 3:
                self._interpreters.clear()
            self._interpreters[shapes] = self._fresh_interpreter(shapes, _interpreter(self.data, self.threads))
        return self._interpreters[shapes]

    def _fresh_interpreter(self, shapes: Shapes, interpreter: Any) -> Any:
        try:
            for port, shape in zip(self.inputs, shapes, strict=True):
                interpreter.resize_tensor_input(port.index, shape)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise CannotRunError(_reason(error)) from error
        return interpreter

    def _run(self, batch: int, stored: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs, in real units, for up to `batch` samples."""
        count = len(stored[0])
        interpreter = self._interpreter(_shapes(batch, stored))
        self._invoke(interpreter, batch, stored)
        outputs = [interpreter.get_tensor(port.index) for port in self.outputs]
        for port, array in zip(self.outputs, outputs, strict=True):
            if array.ndim == 0 or len(array) != batch:
                raise ModelError(
                    f"The output {port.name!r} has shape {array.shape} for {batch} samples; expected ({batch}, ...)."
                )
        return [dequantized(array[:count], port) for port, array in zip(self.outputs, outputs, strict=True)]

    def _invoke(self, interpreter: Any, batch: int, stored: list[NDArray[Any]]) -> None:
        """Run `interpreter`, which has the batch size `batch`, on at most that many samples, repeating the last one."""
        fillers = [np.repeat(array[-1:], batch - len(array), axis=0) for array in stored]
        try:
            interpreter.reset_all_variables()  # a fused LSTM keeps its state between invocations
            for port, array, filler in zip(self.inputs, stored, fillers, strict=True):
                interpreter.set_tensor(port.index, np.concatenate([array, filler]))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise CannotRunError(_reason(error)) from error

    def random_sample(self) -> list[NDArray[Any]] | NDArray[Any]:
        """Return one random sample per input: zeros for indices, the full range for quantized inputs."""
        rng, indices = np.random.default_rng(0), self.index_values().tensors
        samples = [noise(rng, port) for port in self.inputs]
        return _single([x * 0 if port.index in indices else x for x, port in zip(samples, self.inputs, strict=True)])


def _read(path: Path) -> bytes:
    try:
        if is_special(path):
            raise ModelError(f"Cannot read the model {path}: it is a pipe or a device; expected a file.")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"Cannot read the model {path}: {error.strerror or error}.") from error


def _interpreter(data: bytes, threads: int, *, trace: bool = False) -> Any:
    """Return a LiteRT interpreter; with `trace`, it keeps every tensor and runs no delegate, which would hide some."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if not trace:
        return Interpreter(model_content=data, num_threads=threads)
    return Interpreter(
        model_content=data,
        num_threads=threads,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )


def _reason(error: Exception) -> str:
    return f"LiteRT cannot run it: {' '.join(str(error).split())}"


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    if len(shape) != len(expected) or not shape:
        return False
    return all(axis in (None, size) for size, axis in zip(shape[1:], expected[1:], strict=True))


def _unlike_first(arrays: list[NDArray[Any]]) -> int | None:
    """Return the last row in which any of `arrays` differs from its first row; None if there is none."""
    unlike = [np.any((array != array[:1]).reshape(len(array), -1), axis=1) for array in arrays]
    rows = np.flatnonzero(np.any(unlike, axis=0))
    return int(rows[-1]) if len(rows) else None


def _shapes(batch: int, stored: list[NDArray[Any]]) -> Shapes:
    return tuple((batch, *array.shape[1:]) for array in stored)


def _as_list(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (list, tuple)) else [x]


def _single(arrays: list[NDArray[Any]]) -> list[NDArray[Any]] | NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else arrays
