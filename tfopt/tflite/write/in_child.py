"""The parts of a conversion that may crash. Runs only in the child of `tfopt.base.native`; data is passed in files."""

import contextlib
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.errors import DataError, ModelError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import rewritten
from tfopt.tflite.settings import Export
from tfopt.tflite.write import edge_quantizer
from tfopt.tflite.write.byte_inputs import byte_ranges, with_input_ranges
from tfopt.tflite.write.compact import with_true_reversals, without_detours
from tfopt.tflite.write.float_forms import FORMS, without_block_moves
from tfopt.tflite.write.float_islands import outputs_without_int16, outputs_without_scale, with_float_islands
from tfopt.tflite.write.index_values import border_for, exact_values, with_exact_indices
from tfopt.tflite.write.int16_choices import (
    is_about_integers,
    with_int8_tables,
    with_int16_casts,
    with_int16_choices,
    with_ranges_of_integers,
)
from tfopt.tflite.write.int16_forms import with_int16_forms
from tfopt.tflite.write.integer_forms import REPAIRS, with_fixed_ranges, with_nonempty_ranges, with_own_biases
from tfopt.tflite.write.masks import with_near_masks
from tfopt.tflite.write.own_states import with_own_states
from tfopt.tflite.write.selective import with_float_operators
from tfopt.tflite.write.unrounded import float_outputs, without_marks

Sample = dict[str, np.ndarray]


def convert(folder: str, out: str, settings: dict[str, Any], samples: str | None) -> None:
    """Convert the SavedModel `folder`, write the .tflite to `out`, and run it once on the first of `samples`."""
    export, data = Export(**settings), _Samples(samples) if samples else None
    converter = _converter(folder, export)
    _finish(_converted(converter, export, data), out, data)


def quantize(model: str, out: str, settings: dict[str, Any], samples: str | None) -> None:
    """Quantize the float .tflite `model` with litert-quantizer, write the file to `out`, and run it once."""
    export, data = Export(**settings), _Samples(samples) if samples else None
    given = Path(model).read_bytes()
    if not export.integer_only:
        kept = [] if export.weight_only else edge_quantizer.products_of_constants(given)
        _finish(edge_quantizer.quantized(given, export, data, in_float=kept), out, data)
        return
    prepared = _prepared(given, export)
    exact, indices = exact_values(prepared)
    made = edge_quantizer.quantized(prepared, export, data, in_float=exact, border=border_for(export, indices))
    _finish(with_exact_indices(made), out, data)


def _prepared(data: bytes, settings: Export) -> bytes:
    """Return a float .tflite with operators in forms that can be quantized as `settings` say."""
    changes = [with_own_states, *FORMS, with_fixed_ranges]
    if settings.by_edge_quantizer or settings.activations == "int16":
        changes.append(without_block_moves)
    return rewritten(data, *changes)


def _converter(folder: str, settings: Export) -> Any:
    """Return TensorFlow's converter for a SavedModel; used as usual, it would load the functions three times."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.lite import TFLiteSavedModelConverterV2
    from tensorflow.lite.python.optimize import calibrator

    class Converter(TFLiteSavedModelConverterV2):  # type: ignore[misc]
        def convert(self) -> bytes:
            graph, _, _ = self._load_saved_model(self.saved_model_dir, self._saved_model_tags)
            return bytes(self._convert_from_saved_model(graph))

        def _quantize(self, result: bytes, *types: Any) -> bytes:
            """Return the float .tflite `result` in integers; the third of `types` is that of the activations.

            The types of inputs and outputs are those of `settings`: for int16, TensorFlow would force them on a file
            that has kept floats.
            """
            activations_type = types[2]
            result = _prepared(bytes(result), settings)
            exact, indices = exact_values(result)
            own_border = getattr(tf, border_for(settings, indices))
            calibrated, in_float = with_near_masks(result, self._calibrated), [*float_outputs(result), *exact]
            wide = activations_type == tf.int16
            if wide:
                changes = with_own_biases, with_int16_forms, with_int16_choices, with_ranges_of_integers
                result = rewritten(calibrated, *changes)
            else:
                calibrated = rewritten(calibrated, with_nonempty_ranges)
                calibrated = with_input_ranges(calibrated, byte_ranges(self.representative_dataset()))

            def quantize(left: Sequence[str], float_border: bool) -> bytes:
                end = tf.float32 if float_border else own_border
                if wide:
                    data = self._with_float_ends(result, end, *types[2:])
                    data = rewritten(data, with_int16_casts, with_int8_tables)
                    if settings.mixed:
                        left = [*left, *exact, *outputs_without_scale(data), *outputs_without_int16(data)]
                    return with_float_islands(data, result, left) if left else data
                data = mlir_quantize(
                    calibrated,
                    input_data_type=end,
                    output_data_type=end,
                    denylisted_nodes=[*left, *in_float] or None,
                )
                return bytes(data)

            if settings.max_noise is None:
                return quantize((), False)
            return with_float_operators(
                result,
                lambda *chosen: _repaired(quantize(*chosen)),
                self.representative_dataset(),
                most=settings.max_noise,
                free_border=settings.io is None,
            )

        def _with_float_ends(self, prepared: bytes, end: Any, *types: Any) -> bytes:
            """Keep inputs and outputs in float where one of them must be, unless the settings name their type."""
            try:
                return self._in_int16(prepared, end, end, *types)
            except RuntimeError as error:
                cannot = re.search(r"Unsupported (input|output) type", str(error))
                if settings.io is not None or not settings.mixed or not cannot:
                    raise
            return self._in_int16(prepared, tf.float32, tf.float32, *types)

        def _in_int16(self, prepared: bytes, *types: Any) -> bytes:
            """Allow floats where operators have no int16 form: those on integers and bools, and others if mixed."""
            try:
                return bytes(super()._quantize(prepared, *types))
            except RuntimeError as error:
                lacks_form = settings.mixed and "not yet supported for op" in str(error)
                if not lacks_form and not is_about_integers(prepared, str(error)):
                    raise
            borders, after = types[:4], types[5:]  # between them is whether floats are allowed
            return bytes(super()._quantize(prepared, *borders, True, *after))

        def _calibrated(self, data: bytes) -> bytes:
            measured = calibrator.Calibrator(calibrator.add_intermediate_tensors(data))
            return bytes(measured.calibrate(self.representative_dataset))

    return Converter(folder, {"serve"}, ["serving_default"])


def _converted(converter: Any, settings: Export, samples: Iterable[Sample] | None) -> bytes:
    import tensorflow as tf

    optimize, operators = tf.lite.Optimize, tf.lite.OpsSet
    if settings.weights != "float32":
        converter.optimizations = [optimize.DEFAULT]
    if settings.sparse:
        converter.optimizations = [*converter.optimizations, optimize.EXPERIMENTAL_SPARSITY]
    if settings.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings.border != "float32" and settings.activations != "int16":
        converter.inference_input_type = converter.inference_output_type = getattr(tf, settings.border)
    if samples is not None:
        wide = operators.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        narrow = operators.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [wide if settings.activations == "int16" else narrow]
        converter.representative_dataset = lambda: iter(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about input statistics, which `Quantize` has trained
        data = bytes(converter.convert())
    return _repaired(data) if settings.integer_only else rewritten(data, with_own_states)


def _repaired(data: bytes) -> bytes:
    data = with_exact_indices(data)
    return rewritten(data, without_marks, without_detours, with_true_reversals, *REPAIRS)


def _finish(data: bytes, out: str, samples: Iterable[Sample] | None) -> None:
    """Write the file and run it once, so that a crash happens here. Errors are left to later checks of the file."""
    Path(out).write_bytes(data)
    with contextlib.suppress(ModelError, DataError):
        lite = LiteModel(data)
        first = next(iter(samples), None) if samples is not None else None
        lite.predict(lite.random_sample() if first is None else first)


class _Samples:
    """Arrays by input name, of a sample or a fixed batch, read one after another from the file of `write_samples`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Sample]:
        with np.load(self._path) as file:
            for _, names in itertools.groupby(file.files, lambda name: name.partition("/")[0]):
                yield {name.partition("/")[2]: file[name] for name in names}


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write the samples to the .npz `path` without holding all of them in memory."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, sample in enumerate(samples):
            for name, array in sample.items():
                with archive.open(f"{number}/{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
