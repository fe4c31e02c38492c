"""The converter, and how it is brought to convert: one traced function, several ways, its mistakes mended."""

import keyword
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt import bridge
from tfopt.bridge.graph import pack, walk
from tfopt.compact import with_true_reversals, without_detours
from tfopt.errors import DataError, ModelError, TfoptError
from tfopt.legacy import inner
from tfopt.litert import LiteModel
from tfopt.quiet import native_noise_held
from tfopt.stages.quantization_wrapper import Places, replaced, settled
from tfopt.stages.quantize import told_of_scales

if TYPE_CHECKING:
    from tfopt.export import Export

# Steps of a recurrent layer up to which it may be unrolled into as many copies of its operators.
UNROLLED_AT_MOST = 128


def is_quantization_aware(model: Any) -> bool:
    """True for a model that `Quantize.apply` (or TF-MOT's `quantize_apply`) returned."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)


def convert(model: Any, settings: "Export", representative_data: Any = None) -> bytes:
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
    if calibrated and any(type(inner(layer)).__name__ == "Bidirectional" for layer, _ in recurrent):
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


def _converted(converter: Any, settings: "Export", samples: dict[str, np.ndarray] | None) -> bytes:
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
