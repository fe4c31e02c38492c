"""Convert Keras to TFLite: trace one function, try several converter strategies and keep the best file."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base import native
from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides, override_attributes
from tfopt.errors import DataError, ModelError, RecipeError, TfoptError
from tfopt.graph.types import pack
from tfopt.graph.walk import walk
from tfopt.stages.quantize.activation_ranges import with_ranges
from tfopt.stages.quantize.int8_equivalents import always_averages_all, mean_over_places
from tfopt.stages.quantize.trained import is_quantization_aware
from tfopt.stages.quantize.wrapper import with_rounded_weights
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration, argument_names
from tfopt.tflite.write.isolated import Converter, blamed_layer, isolated
from tfopt.tflite.write.recurrent import check_states, maskings, recurrent_layers, repetitions, unrolled
from tfopt.tflite.write.traced_forms import int8_forms

# Maximum number of steps up to which a recurrent layer is unrolled; each step copies its operators.
UNROLLED_AT_MOST = 128
Trace = Callable[[Any, Calibration | None], tuple[Any, Any]]
"""Traces a flat tf_keras model; returns the concrete function and the object that keeps its variables."""


def convert(model: Any, settings: Export, representative_data: Any = None, flat_model: Any = None) -> bytes:
    """The bytes of the `.tflite`, unchecked.

    Its batch is free, unless the graph can only be converted, or only be all int8, with a batch of one. `flat_model` is
    `model` as `flat_twin` gives it, where that is there already.
    """
    native.start()  # it imports TensorFlow while the model is brought over and traced
    aware = is_quantization_aware(model)
    if aware and (settings.by_edge_quantizer or settings.activations == "int16"):
        raise RecipeError(
            f"The model '{model.name}' was trained for int8 weights and activations. Export it so, or pass the float "
            f"model for {settings.weights} weights and {settings.activations} activations."
        )
    flat_model = flat_twin(model) if flat_model is None else flat_model
    _check_weights(flat_model)
    check_states(recurrent_layers(flat_model))
    samples = None
    if settings.integer_only and (representative_data is not None or not aware):
        samples = _calibration(representative_data, settings).bind(flat_model)
        if settings.activation_ranges != "max" and not aware:
            flat_model = _with_ranges(flat_model, samples, settings)
    overrides = _pooling_as_mean(flat_model) + repetitions(flat_model) if settings.activations == "int8" else []
    with override_attributes(overrides):
        make = _by_edge_quantizer if settings.by_edge_quantizer else _best_conversion
        return make(flat_model, settings, samples)


def flat_twin(model: Any) -> Any:
    """The flat tf_keras model that is converted: `model` itself after `Quantize`."""
    return model if is_quantization_aware(model) else bridge.to_tf_keras(model)


def _with_ranges(flat_model: Any, samples: Calibration, settings: Export) -> Any:
    import tensorflow as tf

    try:
        return with_ranges(flat_model, samples.batches, settings.activation_ranges)
    except tf.errors.InvalidArgumentError as error:
        if "indices" not in error.message:
            raise
        raise _index_out_of_range(flat_model) from error


def _check_weights(flat_model: Any) -> None:
    """Raise ModelError for weights that are NaN or infinite, which no scale can represent."""
    for layer in flat_model.layers:
        for weight in layer.weights:
            values = weight.numpy()
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                count = int(np.sum(~np.isfinite(values)))
                raise ModelError(
                    f"The weight '{weight.name}' of the layer '{unwrapped(layer).name}' has {count} values that are "
                    "NaN or infinite; expected finite numbers. Train again with a lower learning rate or clipped "
                    "gradients, or load an earlier checkpoint."
                )


def _by_edge_quantizer(flat_model: Any, settings: Export, samples: Calibration | None) -> bytes:
    data = _best_conversion(flat_model, _in_float(settings), None)
    with isolated(settings, samples) as converter:
        try:
            return converter.quantize(data)
        except (native.CrashError, native.FailedError, ModelError) as error:
            raise _explained(flat_model, settings, error) from error


def _pooling_as_mean(flat_model: Any) -> Overrides:
    """Return overrides that replace averages over the whole input by MEAN. `Quantize` wrappers do this themselves."""
    return [(layer, "call", mean_over_places) for layer in flat_model.layers if always_averages_all(layer)]


def _in_float(settings: Export) -> Export:
    return dataclasses.replace(
        settings, weights="float32", activations="float32", weight_only=False, io=None, sparse=False
    )


def _calibration(data: Any, settings: Export) -> Calibration:
    if data is None:
        raise DataError(
            f"{settings.activations} activations need training inputs for their ranges: pass representative_data=..., "
            'or train the model with Quantize, or choose activations="float32".'
        )
    return data if isinstance(data, Calibration) else Calibration(data, settings.calibration_samples)


def _best_conversion(flat_model: Any, settings: Export, samples: Calibration | None) -> bytes:
    """The file of the first conversion strategy that leaves nothing in float, else of the one that leaves least."""
    found: list[tuple[int, bytes]] = []
    failures: list[tuple[Overrides, Trace, Exception]] = []
    # `Quantize` has trained ranges for the operations as they are.
    forms = int8_forms if samples is not None and not is_quantization_aware(flat_model) else contextlib.nullcontext
    with with_rounded_weights(flat_model), isolated(settings, samples) as converter:
        for overrides, trace in _strategies(flat_model, calibrated=samples is not None):
            try:
                with override_attributes(overrides), forms():
                    traced = trace(flat_model, samples)
                data = converter.convert(*traced)
            except (DataError, native.NotStartedError):  # no other strategy helps
                raise
            except (native.KilledError, native.OverdueError) as error:  # not the fault of this strategy
                raise _explained(flat_model, settings, error) from error
            except Exception as error:
                failures.append((overrides, trace, error))
                continue
            floats = len(load_and_check(data, settings).float_tensors()) if settings.integer_only else 0
            found.append((floats, data))
            if not floats:
                break
        if not found and samples is not None and is_quantization_aware(flat_model):
            # All ranges may be trained, and running it for others fails at a DIV whose divisor is stored as 0.
            with contextlib.suppress(ModelError):
                return _best_conversion(flat_model, settings, None)
        if not found:
            overrides, trace, why = failures[0]
            if isinstance(why, native.CrashError):
                raise _crashed(flat_model, converter, overrides, trace, why) from why
            raise _explained(flat_model, settings, why) from why
    return min(found, key=lambda one: one[0])[1]


def load_and_check(data: bytes, settings: Export) -> LiteModel:
    """Return the file `data`, after a trial run if its weights are sparse. Raise ModelError if LiteRT cannot run it."""
    try:
        lite = LiteModel(data)
        if settings.sparse:
            lite.benchmark(runs=1, warmup=0)
    except ModelError as error:
        if not settings.sparse:
            raise
        raise ModelError(f"LiteRT cannot run the file with sparse weights; remove sparse=True: {error}") from error
    return lite


def _strategies(flat_model: Any, *, calibrated: bool) -> list[tuple[Overrides, Trace]]:
    """How to try the conversion, best first: what holds meanwhile, and what makes the converter.

    A shape that is asked for, as by Conv2DTranspose, stays float where the batch is free. A recurrent layer needs
    a fixed batch, or must be unrolled: only a plain LSTM is one operator. Loops of others keep float states,
    and crash the converter (the whole process) when it looks for their ranges in samples (`calibrated`).
    """
    layers = recurrent_layers(flat_model)
    if not layers:
        return [([], _free_batch), ([], _batch_of_one)]
    loops = [one for one in layers if not one.fused]
    steps = [one.steps for one in layers]
    short = all(number is not None and number <= UNROLLED_AT_MOST for number in steps)
    if calibrated and loops and not short:
        names = dict.fromkeys(unwrapped(one.layer).name for one in loops)
        raise ModelError(
            f"The converter does not support int8 activations for {', '.join(names)}: recurrent layers other than a "
            "plain LSTM (tanh, sigmoid, bias, no mask, no states in or out) must be unrolled, over at most "
            f"{UNROLLED_AT_MOST} fixed steps; got {steps} (None: free). Give the Input a shorter, fixed "
            'length, use a plain LSTM, or choose activations="float32".'
        )
    masks = maskings(flat_model) if calibrated else []
    strategies: list[tuple[Overrides, Trace]] = [(masks, _batch_of_one)] if not (calibrated and loops) else []
    if short:
        strategies.append((masks + unrolled(layers, blended=calibrated), _free_batch))
    return strategies


def _free_batch(flat_model: Any, samples: Calibration | None) -> tuple[Any, Any]:
    """Trace the model for batches of any size, unless its inputs fix the size."""
    del samples
    return _traced(flat_model, [tuple(tensor.shape) for tensor in flat_model.inputs])


def _batch_of_one(flat_model: Any, samples: Calibration | None) -> tuple[Any, Any]:
    """The traced model for a batch of one, with other free sizes as in `samples`, else free."""
    shapes = [(1, *tensor.shape[1:]) for tensor in flat_model.inputs]
    if samples is not None:
        shapes = [(1, *samples.shapes[name]) for name in argument_names(flat_model)]
    return _traced(flat_model, shapes)


def _traced(flat_model: Any, shapes: Sequence[tuple[int | None, ...]]) -> tuple[Any, Any]:
    """Return the model traced as one function for inputs of these shapes, and the object that keeps its variables."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec(shape, tensor.dtype, name)
        for shape, tensor, name in zip(shapes, flat_model.inputs, argument_names(flat_model), strict=True)
    ]
    struct = walk(flat_model, keep_names=True).inputs_struct
    # Outputs keep the names they had before their layers were wrapped.
    inside = {layer.name: unwrapped(layer).name for layer in flat_model.layers}
    names = [inside.get(name, name) for name in flat_model.output_names]

    def run(*inputs: Any) -> dict[str, Any]:
        outputs = flat_model(pack(struct, list(inputs)), training=False)
        return dict(zip(names, tf.nest.flatten(outputs), strict=True))

    traced = tf.function(run, autograph=False)
    holder = tf.Module()
    holder.variables_of_the_model = list(flat_model.variables)
    return traced.get_concrete_function(*specs), holder


def _crashed(
    flat_model: Any, converter: Converter, overrides: Overrides, trace: Trace, crash: native.CrashError
) -> ModelError:
    """Return an error that names the layer on which the conversion process dies."""

    def crashes(part: Any) -> bool:
        try:
            with override_attributes(overrides):
                converter.convert(*trace(part, converter.samples), hasty=True)
        except (native.NotStartedError, native.KilledError):
            raise
        except native.OverdueError:  # slow, but not a crash
            return False
        except native.CrashError:
            return True
        except Exception:  # fails, but does not crash
            return False
        return False

    layer = unwrapped(blamed_layer(flat_model, crashes))
    return ModelError(
        f"The process that converted the model '{flat_model.name}' to {_in_words(converter.settings)} died ({crash}) "
        f"at the layer '{layer.name}' ({type(layer).__name__}). Replace the layer, or choose other weights or "
        "activations."
    )


def _index_out_of_range(flat_model: Any) -> DataError:
    """Return an error that names the layers with lookup tables and their numbers of rows."""
    rows = {
        unwrapped(layer).name: int(unwrapped(layer).input_dim)
        for layer in flat_model.layers
        if hasattr(unwrapped(layer), "input_dim") and hasattr(unwrapped(layer), "embeddings")
    }
    tables = "; ".join(f"'{name}' has rows 0 to {count - 1}" for name, count in rows.items())
    return DataError(
        f"representative_data has an index for which the model '{flat_model.name}' has no row"
        f"{f' ({tables})' if tables else ''}. Expected indices of existing rows: correct the data or its "
        "vocabulary."
    )


def _in_words(settings: Export) -> str:
    return f"{settings.weights} weights and {settings.activations} activations"


def _explained(flat_model: Any, settings: Export, error: Exception) -> Exception:
    """Return the error to raise for the converter's long message."""
    if "gather index out of bounds" in str(error):
        return _index_out_of_range(flat_model)
    if isinstance(error, TfoptError):
        return error
    if isinstance(error, native.CrashError):
        return ModelError(
            f"The process that converted the model '{flat_model.name}' to {_in_words(settings)} died ({error}). Free "
            "memory and try again, or choose other weights or activations."
        )
    text = str(error)
    if ops := re.findall(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)", text):
        names = ", ".join(dict.fromkeys(name.strip() for found in ops for name in found.split(",")))
        return ModelError(
            f"The model '{flat_model.name}' uses operators TFLite does not support ({names}), and LiteRT runs no "
            "others (no SELECT_TF_OPS). Replace the layers that use them."
        )
    if unsupported := re.search(r"not yet supported for op: '(\w+)'", text):
        return _without_operator(flat_model, settings, unsupported[1])
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ModelError(f"The converter cannot convert the model '{flat_model.name}': {first[:400]}")


def _without_operator(flat_model: Any, settings: Export, kind: str) -> ModelError:
    """Return an error that names the layers that need the operator `kind`, which the activations do not support."""
    lite = LiteModel(_best_conversion(flat_model, _in_float(settings), None))
    names = LayerNames(lite, [layer.name for layer in flat_model.layers])
    layers = [layer for op in lite.ops() if op.name == kind for layer in names.near(op)]
    return ModelError(
        f"There is no operator {kind} for {settings.activations} activations; the model '{flat_model.name}' needs it "
        f"in {', '.join(dict.fromkeys(layers))}. Replace the layer, or choose other activations."
    )
