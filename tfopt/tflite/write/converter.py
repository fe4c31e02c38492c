"""Convert Keras to TFLite: trace one function, try several converter strategies and keep the best file."""

import contextlib
import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base import native, sandbox
from tfopt.base.annotations import annotations
from tfopt.base.files import is_full
from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides, override_attributes
from tfopt.errors import CannotRunError, DataError, ModelError, OutputError, RecipeError, TfoptError
from tfopt.models.hub import native_if_possible
from tfopt.stages.quantize.activation_ranges import with_ranges
from tfopt.stages.quantize.int8_equivalents import always_averages_all, mean_over_places
from tfopt.stages.quantize.ranges import apart
from tfopt.stages.quantize.replaced_rounding import with_rounded_weights
from tfopt.stages.quantize.trained import is_quantization_aware, layers_left_in_float
from tfopt.tflite.prove.sides import file_outputs
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.blame import blamed_operator
from tfopt.tflite.read.layer_names import LayerNames, layer_pattern, layers_in
from tfopt.tflite.settings import FLOAT, Export
from tfopt.tflite.write.assigned import check_assignments
from tfopt.tflite.write.calibration import Calibration, argument_names, output_names
from tfopt.tflite.write.isolated import Converter, blamed_layer, isolated
from tfopt.tflite.write.loops import without_collecting_loops
from tfopt.tflite.write.ports_in_order import in_order
from tfopt.tflite.write.recurrent import check_states, recurrent_layers, repetitions
from tfopt.tflite.write.strategies import Strategy, strategies_for
from tfopt.tflite.write.traced_forms import PARTS_OF_OPERATORS, marked_results, supported_forms

_NO_RANGE = "should be recorded during calibration"


def convert(
    model: Any,
    settings: Export,
    representative_data: Any = None,
    flat_model: Any = None,
    *,
    breaks: Callable[[bytes], bool] = lambda data: False,
) -> bytes:
    """Return the bytes of the `.tflite`, unchecked.

    Args:
        model: a Keras 3 or tf_keras model, or what `Quantize.apply` returned.
        settings: what the file holds. A dynamic batch becomes a static one if the model can only be converted, or only
            be all integers, or only keep its promises with that.
        representative_data: training inputs, as for `export_tflite`.
        flat_model: the result of `model_to_convert(model)`, if it is there already.
        breaks: whether a file breaks a promise, so that another way to convert the model is tried.
    """
    native.start()  # it imports TensorFlow while the model is brought over and traced
    sandbox.start()
    aware = is_quantization_aware(model)
    if aware and (settings.by_edge_quantizer or settings.activations == "int16"):
        raise RecipeError(
            f"The model '{model.name}' was trained for int8 weights and activations. Export it so, or pass the float "
            f"model for {settings.weights} weights and {settings.activations} activations."
        )
    flat_model = model_to_convert(model) if flat_model is None else flat_model
    _check_weights(flat_model)
    check_states(recurrent_layers(flat_model))
    check_assignments(flat_model)
    samples = None
    if settings.integer_only and (representative_data is not None or not aware):
        samples = _calibration(representative_data, settings).bind(flat_model)
        if settings.activation_ranges != "max" and not aware:
            flat_model = _with_ranges(flat_model, samples, settings)
    overrides = _pooling_as_mean(flat_model) + repetitions(flat_model) if settings.activations == "int8" else []
    with override_attributes(overrides):
        data = _best_conversion(flat_model, settings, samples, breaks)
        if samples is None and (kept := _kept_samples(flat_model, settings, data)) is not None:
            data = _best_conversion(flat_model, settings, kept, breaks)
    return in_order(data, argument_names(flat_model), output_names(flat_model))


def _kept_samples(flat_model: Any, settings: Export, data: bytes) -> Calibration | None:
    """Return the samples with which `flat_model` was calibrated, if its file `data` has float values by no decision.

    They are inside layers, such as the squares of a norm, where training rounds nothing.
    """
    kept = annotations(flat_model).samples
    if kept is None or not settings.integer_only or layers_left_in_float(flat_model):
        return None
    return _calibration(kept, settings).bind(flat_model) if LiteModel(data).float_tensors() else None


def model_to_convert(model: Any) -> Any:
    """Return the flat tf_keras model to convert: `model` itself after `Quantize`."""
    return model if is_quantization_aware(model) else bridge.to_tf_keras(native_if_possible(model)[0])


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


def _pooling_as_mean(flat_model: Any) -> Overrides:
    """Return overrides that replace averages over the whole input by MEAN. `Quantize` wrappers do this themselves."""
    return [(layer, "call", mean_over_places) for layer in flat_model.layers if always_averages_all(layer)]


def in_float(settings: Export) -> Export:
    """Return the settings of the same file in float."""
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


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes files in different ways.

    Attributes:
        converter: makes the file, in float if there is a quantizer.
        quantizer: quantizes it; None if the converter does.
        samples: for the ranges.
        integers: whether a model is traced in forms that the converter can quantize.
    """

    converter: Converter
    quantizer: Converter | None
    samples: Calibration | None
    integers: bool

    def make(self, flat_model: Any, strategy: Strategy, *, hasty: bool = False) -> bytes:
        """Return the file, in which operations that are mere parts of an operator are that operator if possible."""
        try:
            return self._made(flat_model, strategy, hasty, PARTS_OF_OPERATORS)
        except native.FailedError as error:
            if not any(f"tf.{name}" in str(error) for name in PARTS_OF_OPERATORS):
                raise
        return self._made(flat_model, strategy, hasty, ())

    def _made(self, flat_model: Any, strategy: Strategy, hasty: bool, without: Collection[str]) -> bytes:
        # The converter gives integers to a ONE_HOT before a trained range, and then refuses them.
        kinds = ("OneHot",) if is_quantization_aware(flat_model) else ()
        with (
            override_attributes(strategy.overrides),
            supported_forms(integers=self.integers, without=without),
            marked_results(kinds, apart),
        ):
            traced = self._traced(flat_model, strategy)
        data = self.converter.convert(*traced, hasty=hasty)
        return self.quantizer.quantize(data, hasty=hasty) if self.quantizer else data

    def _traced(self, flat_model: Any, strategy: Strategy) -> tuple[Any, Any]:
        trace = functools.partial(strategy.trace, flat_model, self.samples)
        if not (self.quantizer or self.converter).settings.integer_only:
            return trace()
        return without_collecting_loops(trace, [unwrapped(layer).name for layer in flat_model.layers])


@contextlib.contextmanager
def _maker(flat_model: Any, settings: Export, samples: Calibration | None) -> Iterator[_Maker]:
    with isolated(settings, samples) as converter:
        if settings.by_edge_quantizer:
            with isolated(in_float(settings), None) as float_converter:
                yield _Maker(float_converter, converter, samples, integers=False)
            return
        # `Quantize` has trained ranges for the operations as they are.
        calibrated = samples is not None and not is_quantization_aware(flat_model)
        yield _Maker(converter, None, samples, integers=calibrated)


def _best_conversion(
    flat_model: Any,
    settings: Export,
    samples: Calibration | None,
    breaks: Callable[[bytes], bool] = lambda data: False,
) -> bytes:
    """Return the first file that breaks no promise and has no float tensor, else the best one.

    The strategies come with the fewest operators first. The best file is the one with the fewest broken promises, then
    float tensors, then operators.
    """
    found: list[tuple[tuple[bool, int, int], bytes]] = []
    failures: list[tuple[Strategy, Exception]] = []
    with with_rounded_weights(flat_model), _maker(flat_model, settings, samples) as maker:
        strategies = strategies_for(flat_model, settings, samples)
        several = sum(not strategy.rescue for strategy in strategies) > 1
        for strategy in strategies:
            if strategy.rescue and (found or not isinstance(failures[-1][1], native.FailedError)):
                break
            try:
                data = maker.make(flat_model, strategy)
                lite = load_and_check(data, settings)
                if several and (tried := _sample(lite, samples)):
                    file_outputs(lite, tried)  # some ways make files that open and do not run
            except (DataError, native.NotStartedError):  # no other strategy helps
                raise
            except (native.KilledError, native.OverdueError) as error:  # not the fault of this strategy
                raise _explained(flat_model, settings, error) from error
            except Exception as error:
                failures.append((strategy, error))
                continue
            floats = len(lite.float_tensors()) if settings.integer_only else 0
            broken = several and breaks(data)
            found.append(((broken, floats, len(lite.ops())), data))
            if not broken and not floats:
                break
        if not found and samples is not None and is_quantization_aware(flat_model):
            # All ranges may be trained, and running it for others fails at a DIV whose divisor is stored as 0.
            with contextlib.suppress(ModelError):
                return _best_conversion(flat_model, settings, None, breaks)
        if not found:
            strategy, why = failures[0]
            if isinstance(why, native.CrashError):
                raise _crashed(flat_model, maker, strategy, settings, why) from why
            if _NO_RANGE in str(why):
                raise _without_range(flat_model, maker, strategy, settings) from why
            raise _explained(flat_model, settings, why) from why
    return min(found, key=lambda one: one[0])[1]


def _sample(lite: LiteModel, samples: Calibration | None) -> dict[str, np.ndarray]:
    """Return inputs to run a file on, by name; none without data if nobody knows which sizes its inputs may have."""
    if samples is not None:
        return next(iter(samples))
    if any(None in port.shape[1:] for port in lite.inputs):
        return {}
    drawn = lite.random_sample()
    arrays = drawn if isinstance(drawn, list) else [drawn]
    return {port.name: array for port, array in zip(lite.inputs, arrays, strict=True)}


def load_and_check(data: bytes, settings: Export) -> LiteModel:
    """Return the file `data`, after a trial run if its weights are sparse. Raise ModelError if LiteRT cannot run it."""
    try:
        lite = LiteModel(data)
        if settings.sparse:
            lite.benchmark(runs=1, warmup=0)
    except sandbox.CrashedError as error:
        raise ModelError(
            f"LiteRT crashes on the file with {_in_words(settings)}{blamed_operator(data, _crashes)}. Replace the "
            "layer, or choose other weights or activations."
        ) from error
    except ModelError as error:
        if not settings.sparse:
            raise
        raise ModelError(f"LiteRT cannot run the file with sparse weights; remove sparse=True: {error}") from error
    return lite


def _crashes(data: bytes) -> bool:
    try:
        LiteModel(data)
    except sandbox.CrashedError:
        return True
    except ModelError:
        return False
    return False


def _crashed(
    flat_model: Any, maker: _Maker, strategy: Strategy, settings: Export, crash: native.CrashError
) -> ModelError:
    """Return an error that names the layer on which the conversion process dies."""
    layer = _blamed(flat_model, maker, strategy, lambda error: isinstance(error, native.CrashError))
    return ModelError(
        f"The process that converted the model '{flat_model.name}' to {_in_words(settings)} died ({crash}) "
        f"at the layer '{layer.name}' ({type(layer).__name__}). Replace the layer, or choose other weights or "
        "activations."
    )


def _blamed(flat_model: Any, maker: _Maker, strategy: Strategy, same: Callable[[Exception], bool]) -> Any:
    """Return the first layer with which the conversion fails in the `same` way."""

    def fails(part: Any) -> bool:
        try:
            maker.make(part, strategy, hasty=True)
        except (native.NotStartedError, native.KilledError):
            raise
        except native.OverdueError:  # slow, but not a crash
            return False
        except Exception as error:
            return same(error)
        return False

    return unwrapped(blamed_layer(flat_model, fails))


def _without_range(flat_model: Any, maker: _Maker, strategy: Strategy, settings: Export) -> ModelError:
    """Return an error that names the layers whose values the quantizer finds no range for."""
    if layers := _layers_of(flat_model, settings, "IF"):  # in its branches
        return ModelError(
            f"There is no operator IF for {settings.activations} activations; the model '{flat_model.name}' needs it "
            f"in {', '.join(layers)}. Replace the layer, or choose other activations."
        )
    layer = _blamed(flat_model, maker, strategy, lambda error: _NO_RANGE in str(error))
    return ModelError(
        f"The layer '{layer.name}' of the model '{flat_model.name}' computes values that litert-quantizer finds no "
        f"range for, with {settings.activations} activations. Replace the layer, or choose other activations."
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


def _instead_of(flat_model: Any, operators: Collection[str]) -> str:
    if "AsString" in operators:  # numbers are hashed as texts
        return "Hash numbers before the model, and pass it the results: its part behind the hashing converts."
    if any("LookupTable" in name or "String" in name for name in operators):
        return "Look words up before the model, and pass it their numbers: its part behind the lookup converts."
    normalizing = {name for name in operators if "FusedBatchNorm" in name}  # others are folded into multiplications
    others = set(operators) - normalizing
    said = []
    if normalizing:
        who = ", ".join(_layers_with(flat_model, normalizing)) or "A BatchNormalization"
        said.append(
            f"{who} is called with training=True, so it computes with the statistics of each batch in inference too: "
            "call it without."
        )
    if others:
        which = ", ".join(sorted(others)) if normalizing else "them"
        layers = ", ".join(_layers_with(flat_model, others))
        said.append(f"Replace the layers that use {which}{': ' if layers else ''}{layers}.")
    return " ".join(said)


def _layers_with(flat_model: Any, operators: Collection[str]) -> list[str]:
    """Return the layers that use these operations of TensorFlow, as far as names tell."""
    function, _ = strategies_for(flat_model, FLOAT, None)[0].trace(flat_model, None)
    patterns = {name: layer_pattern(name) for name in (unwrapped(layer).name for layer in flat_model.layers)}
    using = {
        layer
        for op in function.graph.get_operations()
        if op.type in operators
        for layer in layers_in(op.name, patterns)
    }
    return [layer for layer in patterns if layer in using]


def _explained(flat_model: Any, settings: Export, error: Exception) -> Exception:
    """Return the error to raise for the converter's long message."""
    if "gather index out of bounds" in str(error):
        return _index_out_of_range(flat_model)
    if isinstance(error, CannotRunError):
        allow = "" if settings.mixed else "allow float operators (mixed=True), or "
        return CannotRunError(
            f"The model '{flat_model.name}' has no file with {_in_words(settings)} that LiteRT can run "
            f"({str(error).partition(': ')[2]}): {allow}choose other weights or activations."
        )
    if isinstance(error, TfoptError):
        return error
    if is_full(error):
        return OutputError(
            f"The disk is full: converting the model '{flat_model.name}' needs room in {tempfile.gettempdir()} for it "
            "and its calibration samples. Free some, or set TMPDIR to a folder on a larger disk."
        )
    if isinstance(error, native.CrashError):
        return ModelError(
            f"The process that converted the model '{flat_model.name}' to {_in_words(settings)} died ({error}). Free "
            "memory and try again, or choose other weights or activations."
        )
    wrapped = [unwrapped(layer).name for layer in flat_model.layers if unwrapped(layer) is not layer]
    if wrapped and not is_quantization_aware(flat_model):
        return ModelError(
            f"'{flat_model.name}' still has the wrappers of a stage, around {', '.join(wrapped[:3])}. Pass what "
            "stage.strip(model) returns."
        )
    text = str(error)
    if ops := re.findall(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)", text):
        names = list(dict.fromkeys(name.strip() for found in ops for name in found.split(",")))
        return ModelError(
            f"The model '{flat_model.name}' uses operators TFLite does not support ({', '.join(names)}), and LiteRT "
            f"runs no others (no SELECT_TF_OPS). {_instead_of(flat_model, names)}"
        )
    if unsupported := re.search(r"not yet supported for op: '(\w+)'", text):
        kind = unsupported[1]
        layers = ", ".join(_layers_of(flat_model, settings, kind))
        return ModelError(
            f"There is no operator {kind} for {settings.activations} activations; the model '{flat_model.name}' needs "
            f"it{f' in {layers}' if layers else ''}. Replace the layer, or choose other activations."
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ModelError(f"The converter cannot convert the model '{flat_model.name}': {first[:400]}")


def _layers_of(flat_model: Any, settings: Export, kind: str) -> list[str]:
    """Return the layers that need the operator `kind`, as far as the names in a float file tell."""
    lite = LiteModel(_best_conversion(flat_model, in_float(settings), None))
    names = LayerNames(lite, [layer.name for layer in flat_model.layers])
    return list(dict.fromkeys(layer for op in lite.ops() if op.name == kind for layer in names.near(op)))
