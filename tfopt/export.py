"""A trained model as a `.tflite`, proven: what was asked for is looked up in the file that was written."""

import keyword
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from tfopt import bridge
from tfopt.bridge.graph import pack, walk
from tfopt.compact import compact, with_true_reversals, without_detours
from tfopt.config import config
from tfopt.errors import DataError, ModelError, PromiseError, RecipeError, TfoptError
from tfopt.files import write_atomically
from tfopt.litert import LiteModel
from tfopt.proof import verify_promises
from tfopt.quiet import native_noise_held
from tfopt.stages.promise import Promise
from tfopt.stages.quantization_wrapper import Places, replaced, settled
from tfopt.stages.quantize import left_in_float, told_of_scales
from tfopt.stages.stage import inner

CALIBRATION_SAMPLES = 256
# Steps of a recurrent layer up to which it may be unrolled into as many copies of its operators.
UNROLLED_AT_MOST = 128


@config
class Export:
    """What the `.tflite` holds.

    Attributes:
        weights: "float32", "float16" or "int8".
        activations: "float32" or "int8"; int8 needs int8 weights, and training data for the ranges unless
            the model comes from `Quantize`.
        io: what inputs and outputs hold, "float32" or "int8"; None follows the activations.
        calibration_samples: training inputs that the ranges come from (without `Quantize`).
        compact: leave out what running the file does not need, such as the names of inner tensors.
    """

    weights: Literal["float32", "float16", "int8"] = "int8"
    activations: Literal["float32", "int8"] = "int8"
    io: Literal["float32", "int8"] | None = None
    calibration_samples: PositiveInt = CALIBRATION_SAMPLES
    compact: bool = True

    def __post_init__(self) -> None:
        if self.activations == "int8" and self.weights != "int8":
            raise RecipeError(f"int8 activations need int8 weights; got {self.weights} weights.")
        if self.io == "int8" and self.activations != "int8":
            raise RecipeError("int8 inputs and outputs need int8 activations.")

    @property
    def integer_only(self) -> bool:
        return self.activations == "int8"


def export_tflite(
    model: Any,
    path: str | Path | None = None,
    *,
    weights: str = "int8",
    activations: str = "int8",
    io: str | None = None,
    representative_data: Any = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
) -> LiteModel:
    """Convert `model`, write the file atomically, open it with LiteRT and check what it holds.

    Args:
        model: a Keras 3 or tf_keras model, or what `Quantize.apply` returned, after training.
        path: the file to write; None keeps it in memory.
        weights, activations, io, calibration_samples: see `Export`.
        representative_data: training inputs for the int8 ranges: a float32 array (batch first), a tf.data of
            batches (inputs, or inputs and labels), or a `tfopt.data.Dataset`. For several inputs a list of
            arrays in their order, or a dict by name. After `Quantize` most models need none; it serves tensors
            that no trained range covers.

    Raises:
        PromiseError: the file does not hold what was asked for; the message names the tensors.
        DataError: int8 activations without representative data, or data that does not fit the inputs.
        ModelError: the converter cannot make a file of it; the message names operators that TFLite has not.
    """
    settings = Export(
        weights=weights,  # type: ignore[arg-type]
        activations=activations,  # type: ignore[arg-type]
        io=io,  # type: ignore[arg-type]
        calibration_samples=calibration_samples,
    )
    lite, _ = build(model, settings, representative_data)
    if path is not None:
        write_atomically(Path(path), lite.data)
        lite = LiteModel(path)
    return lite


def build(
    model: Any,
    settings: Export,
    representative_data: Any = None,
    promises: Sequence[Promise] = (),
    plain: Any = None,
) -> tuple[LiteModel, list[str]]:
    """Convert `model` and check the file; returns it with notes, see `verify_promises`.

    `plain` is the flat tf_keras model whose kernels the `promises` are about.
    """
    named = LiteModel(convert(model, settings, representative_data))
    lite = LiteModel(compact(named.data)) if settings.compact else named
    in_float = left_in_float(model)
    notes: list[str] = []
    # The file with names first, for the sake of the messages; then the one that is written.
    for file in (named, lite):
        verify_types(file, settings, in_float)
        notes = verify_promises(file, plain, promises, trained_ranges=told_of_scales(model))
    return lite, [*notes, *float_notes(named, settings, in_float)]


def is_quantization_aware(model: Any) -> bool:
    """True for a model that `Quantize.apply` (or TF-MOT's `quantize_apply`) returned."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)


def convert(model: Any, settings: Export, representative_data: Any = None) -> bytes:
    """The bytes of the `.tflite`, unchecked.

    Its batch is free, unless the graph can only be converted, or only be all int8, with a batch of one.
    """
    aware = is_quantization_aware(model)
    legacy = model if aware else bridge.to_tf_keras(model)
    samples = None
    if settings.integer_only and (representative_data is not None or not aware):
        samples = _samples(legacy, representative_data, settings.calibration_samples)
    told = told_of_scales(legacy)
    one_scale = any(type(inner(layer)).__name__ == "Dense" for layer in legacy.layers if inner(layer).name in told)
    found: list[tuple[int, bytes]] = []
    failures: list[Exception] = []
    with settled(legacy):
        for places, make in _ways(legacy, calibrated=samples is not None):
            try:
                with replaced(places):
                    converter = make(legacy, samples)
                    # Of a Dense kernel the converter does not always hear what FakeQuant says.
                    converter._experimental_disable_per_channel_quantization_for_dense_layers = one_scale
                    data = _converted(converter, settings, samples)
            except Exception as error:
                failures.append(error)
                continue
            floats = len(LiteModel(data).float_tensors()) if settings.integer_only else 0
            found.append((floats, data))
            if not floats:
                break
    if not found:
        raise _explained(legacy, failures[0]) from failures[0]
    return min(found, key=lambda one: one[0])[1]


def _ways(legacy: Any, *, calibrated: bool) -> list[tuple[Places, Callable[..., Any]]]:
    """How to try the conversion, best first: what holds meanwhile, and what makes the converter.

    A shape that is asked for, as by Conv2DTranspose, stays float where the batch is free. A recurrent layer needs
    a fixed batch, or must be unrolled: only LSTM has an operator of its own. Loops of others keep float states,
    and crash the converter (the whole process) when it looks for their ranges in samples (`calibrated`).
    """
    recurrent = _recurrent(legacy)
    if not recurrent:
        return [([], _free_batch), ([], _batch_of_one)]
    unrolled: Places = [(part, "unroll", True) for _, part in recurrent]
    unrolled += [(part, kernel, False) for _, part in recurrent if hasattr(part, kernel := "_could_use_gpu_kernel")]
    steps = [layer.get_input_shape_at(0)[1] for layer, _ in recurrent]
    short = all(number is not None and number <= UNROLLED_AT_MOST for number in steps)
    loops = [layer.name for layer, part in recurrent if type(part).__name__ != "LSTM"]
    if calibrated and loops and not short:
        raise ModelError(
            f"The converter cannot make int8 activations of {', '.join(dict.fromkeys(loops))}: other recurrent layers "
            f"than LSTM must be unrolled, over {UNROLLED_AT_MOST} fixed steps at most; got {steps} (None: free). Give "
            'the Input a shorter, fixed length, use LSTM, or choose activations="float32".'
        )
    ways: list[tuple[Places, Callable[..., Any]]] = [([], _batch_of_one)] if not (calibrated and loops) else []
    if short:
        ways.append((unrolled, _free_batch))
    if calibrated and any(type(layer).__name__ == "Bidirectional" for layer, _ in recurrent):
        ways.reverse()  # of two LSTM operators side by side, the converter gives one poor ranges
    return ways


def _recurrent(legacy: Any) -> list[tuple[Any, Any]]:
    """(layer of the model, recurrent layer in it) for all that loop over time steps."""
    return [
        (layer, part)
        for layer in legacy.layers
        for part in layer._flatten_layers()
        if hasattr(part, "unroll") and hasattr(part, "cell")
    ]


def _converted(converter: Any, settings: Export, samples: dict[str, np.ndarray] | None) -> bytes:
    import tensorflow as tf

    if settings.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings.integer_only and (settings.io or "int8") == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if samples is not None:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _rows(samples)
    with warnings.catch_warnings(), native_noise_held():
        warnings.simplefilter("ignore")  # about statistics for inputs, which `Quantize` has trained
        data = bytes(converter.convert())
    return with_true_reversals(without_detours(data)) if settings.integer_only else data


def _rows(samples: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Single samples by input name: the converter has an order of inputs of its own."""
    for row in range(len(next(iter(samples.values())))):
        yield {name: array[row : row + 1] for name, array in samples.items()}


def _free_batch(legacy: Any, samples: dict[str, np.ndarray] | None) -> Any:
    """A converter for batches of any size, unless the model says otherwise."""
    del samples
    return _converter(legacy, [tuple(tensor.shape) for tensor in legacy.inputs])


def _batch_of_one(legacy: Any, samples: dict[str, np.ndarray] | None) -> Any:
    """A converter for a batch of one, with other free sizes as in `samples`."""
    shapes = [(1, *tensor.shape[1:]) for tensor in legacy.inputs]
    if samples is not None:
        shapes = [(1, *samples[name].shape[1:]) for name in argument_names(legacy)]
    if any(None in shape for shape in shapes):
        raise ModelError(
            f"The model '{legacy.name}' has inputs of free size, {shapes}, which it cannot be converted with: pass "
            "representative_data of the size that it will get, or give its Input that shape."
        )
    return _converter(legacy, shapes)


def _converter(legacy: Any, shapes: Sequence[tuple[int | None, ...]]) -> Any:
    """A converter for inputs of these shapes, of one traced function: Keras itself would trace every layer thrice."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec(shape, tensor.dtype, name)
        for shape, tensor, name in zip(shapes, legacy.inputs, argument_names(legacy), strict=True)
    ]
    struct = walk(legacy, keep_names=True).inputs_struct

    @tf.function(autograph=False)
    def run(*inputs: Any) -> dict[str, Any]:
        outputs = legacy(pack(struct, list(inputs)), training=False)
        return dict(zip(legacy.output_names, tf.nest.flatten(outputs), strict=True))

    holder = tf.Module()
    holder.variables_of_the_model = list(legacy.variables)
    return tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function(*specs)], holder)


def argument_names(legacy: Any) -> list[str]:
    """The names of the inputs in the file: those in Keras, but no words of Python, which signatures cannot take."""
    return [f"{name}_" if keyword.iskeyword(name) or name == "self" else name for name in legacy.input_names]


def _explained(legacy: Any, error: Exception) -> Exception:
    """The converter's pages of text as one line."""
    if isinstance(error, TfoptError):
        return error
    text = str(error)
    if ops := re.findall(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)", text):
        names = ", ".join(dict.fromkeys(name.strip() for found in ops for name in found.split(",")))
        return ModelError(
            f"The model '{legacy.name}' needs operators that TFLite has not ({names}), and LiteRT runs no others "
            "(no SELECT_TF_OPS). Replace the layers that use them."
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ModelError(f"The converter cannot make a .tflite of the model '{legacy.name}': {first[:400]}")


def _samples(legacy: Any, data: Any, number: int) -> dict[str, np.ndarray]:
    """Up to `number` samples for each input of `legacy`, by its name in the file and of its dtype."""
    if data is None:
        raise DataError(
            "int8 activations need training inputs for their ranges: pass representative_data=..., or train the "
            'model with Quantize, or choose activations="float32".'
        )
    if hasattr(data, "representative"):
        arrays = _per_input(legacy, data.representative(number))
    elif hasattr(data, "as_numpy_iterator"):
        batches: list[list[np.ndarray]] = []
        for element in data.as_numpy_iterator():
            batches.append(_per_input(legacy, element[0] if isinstance(element, tuple) else element))
            if sum(len(batch[0]) for batch in batches) >= number:
                break
        arrays = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    else:
        arrays = _per_input(legacy, data)
    for array, tensor in zip(arrays, legacy.inputs, strict=True):
        if array.ndim != len(tensor.shape):
            raise DataError(
                f"representative_data for the input '{tensor.name}' must have shape {tuple(tensor.shape)}, batch "
                f"first; got {array.shape}."
            )
    return {
        name: array[:number].astype(tensor.dtype.as_numpy_dtype)
        for name, array, tensor in zip(argument_names(legacy), arrays, legacy.inputs, strict=True)
    }


def _per_input(legacy: Any, inputs: Any) -> list[np.ndarray]:
    """One array for each input of `legacy`, whatever nest they come in."""
    names = legacy.input_names
    if isinstance(inputs, Mapping):
        ordered = [inputs[name] for name in (names if set(names) == set(inputs) else sorted(inputs))]
    else:
        ordered = list(inputs) if len(names) > 1 and isinstance(inputs, (list, tuple)) else [inputs]
    if len(ordered) != len(names):
        raise DataError(
            f"The model '{legacy.name}' has {len(names)} inputs, {names}; the representative_data has {len(ordered)}. "
            "Give one array for each, as a list in that order or as a dict by name."
        )
    return [np.asarray(array) for array in ordered]


def verify_types(lite: LiteModel, settings: Export, in_float: Mapping[str, str] | None = None) -> None:
    """Raise `PromiseError` when the file does not hold the types that were asked for.

    Where `Quantize` left layers in float, for the reasons `in_float` by layer name, float operators are no error.
    """
    if in_float:
        return
    if settings.integer_only:
        floats = lite.float_tensors()
        if floats:
            raise PromiseError(
                f"int8 everywhere was promised, but {len(floats)} tensors of the .tflite are float: "
                f"{', '.join(floats[:5])}. Pass representative_data (training inputs), replace the layers, or export "
                'with activations="float32".'
            )
    expected = "int8" if settings.weights == "int8" else None
    wrong = [w.tensor for w in lite.weights() if expected and w.tensor.dtype != expected]
    # The converter keeps kernels under 1,024 values in float when activations are float.
    wrong = [tensor for tensor in wrong if settings.integer_only or np.prod(tensor.shape) >= 1024]
    if wrong:
        raise PromiseError(
            f"{expected} weights were promised, but {wrong[0].name} is {wrong[0].dtype}: the converter has no "
            f"{expected} form for it."
        )


def float_notes(lite: LiteModel, settings: Export, in_float: Mapping[str, str]) -> list[str]:
    """What a reader should know of float operators in a file that was to be int8."""
    floats = set(lite.float_tensors())
    if not settings.integer_only or not floats:
        return []
    names: dict[str, None] = {}
    for op in lite.ops():
        touched = [tensor for tensor in lite.tensors() if tensor.subgraph == op.subgraph]
        used = {index for index in (*op.inputs, *op.outputs) if index >= 0}
        if op.name not in ("QUANTIZE", "DEQUANTIZE") and any(t.index in used and t.name in floats for t in touched):
            names[op.name] = None
    layers = ", ".join(f"{name} ({why})" for name, why in in_float.items())
    return [f"float operators in the file: {', '.join(names)}; left in float: {layers}"]
