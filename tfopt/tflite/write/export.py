"""Export a trained model as a `.tflite` and verify that the file holds what was requested."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from tfopt import bridge
from tfopt.base import native
from tfopt.base.annotations import annotations, trained_model
from tfopt.base.files import write_atomically
from tfopt.base.keras_compat import unwrapped
from tfopt.base.words import counted
from tfopt.data import Dataset
from tfopt.errors import CannotRunError, ModelError, PromiseError, RecipeError, TfoptError
from tfopt.graph.walk import is_model
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.quantize.integers import integers_of
from tfopt.stages.quantize.trained import has_float_ends, is_quantization_aware, layers_with_trained_scales
from tfopt.tflite.prove.kernels import same_places
from tfopt.tflite.prove.missing_values import verify_missing_values
from tfopt.tflite.prove.outputs import most_noise
from tfopt.tflite.prove.promises import promised_kernels, verify_promises
from tfopt.tflite.prove.types import contents, port_notes, verify_finite, verify_types
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration, without_generator
from tfopt.tflite.write.compact import compact
from tfopt.tflite.write.converter import convert, load_and_check, model_to_convert
from tfopt.tflite.write.float_insides import with_float_insides
from tfopt.tflite.write.float_rival import compared_with_float
from tfopt.tflite.write.four_bits import rounded_to_4_bits
from tfopt.tflite.write.low_bit_weights import store_integers
from tfopt.tflite.write.metadata import with_metadata
from tfopt.tflite.write.mixed import allowed_floats, require_integers
from tfopt.tflite.write.own_states import KEEPING_STATES
from tfopt.tflite.write.photo_ends import is_fed_by_channel, with_photo_ends
from tfopt.tflite.write.proof import COMPARED, kept_beside, prove

SHARES_OF_NOISE = (0.5, 0.1, 0.02)
"""Shares of the allowed noise that operators are left in float for, one after the other: held-out samples show more."""


class _Old(TypedDict, total=False):
    """The keyword arguments of 0.1, to be removed in 0.3.0."""

    weights: str
    activations: str
    weight_only: bool
    io: str | None
    sparse: bool
    calibration_samples: int


def export_tflite(
    model: Any,
    path: str | Path | None = None,
    export: Export | None = None,
    *,
    representative_data: Any = None,
    **old: Unpack[_Old],
) -> LiteModel:
    """Convert `model`, write the file atomically, open it with LiteRT and verify its contents.

    Args:
        model: a Keras 3 or tf_keras model, what `Quantize.apply` returned, after training, or what `distill` returned,
            which stands for its student.
        path: the file to write; None keeps it in memory.
        export: what the file holds; None is `Export()`, int8 weights and activations.
        representative_data: training inputs for int8 and int16 ranges: a float32 array (batch first), a tf.data of
            batches (inputs, or inputs and labels), or a `tfopt.Dataset`. For several inputs a list of arrays in their
            order, or a dict by name. As for TFLiteConverter, it may be a generator of lists or dicts with a batch of
            each, or a function that makes it; or a PyDataset of batches (x, y). After `Quantize` most models need none;
            it serves tensors that no trained range covers.
        **old: deprecated; settings of `Export`, which belong in `export`.

    Returns:
        The file. Its `notes` report how ranges were found, which layers stay in float, and which weights are stored in
        another form.

    Raises:
        RecipeError: the settings contradict each other.
        PromiseError: the file does not hold what was asked for, or does not compute what the model does, which
            `Export(allow_drift=True)` allows; the message names tensors and layers. A file that computes something else
            is kept next to `path`, as NAME.failed.tflite.
        DataError: int8 or int16 activations without representative data, or data that does not fit the inputs.
        ModelError: the converter cannot make a file of it; the message names operators that TFLite does not support.
        OutputError: the file cannot be written.

    Examples:
        >>> lite = tfopt.export_tflite(model, "model.tflite", tfopt.Export(io="int8"), representative_data=x)
        >>> lite.inputs[0].dtype, lite.float_tensors()
        ('int8', [])
        >>> small = tfopt.export_tflite(model, export=tfopt.Export(weights="float16", activations="float32"))
    """
    if not is_model(model):
        raise ModelError(
            f"Expected a Keras 3 or tf_keras model, got {type(model).__name__}; tfopt.load_model opens a file."
        )
    if path is not None and not isinstance(path, str | Path):
        raise RecipeError(
            f"Expected the path of a file, or None, as the second argument; got {path!r}. Settings come third: "
            "export_tflite(model, None, Export(...))."
        )
    if old:
        if export is not None:
            raise RecipeError(f"Expected all settings in Export; got an Export and also {', '.join(old)}.")
        given = ", ".join(f"{name}=..." for name in old)
        text = f"tfopt.export_tflite({given}) moved to tfopt.export_tflite(model, path, tfopt.Export({given}))"
        warnings.warn(f"{text}; the old arguments will be removed in 0.3.0.", DeprecationWarning, stacklevel=2)
    settings = Export(**old) if export is None else export  # type: ignore[arg-type]
    if not isinstance(settings, Export):
        raise RecipeError(f'Expected an Export, e.g. tfopt.Export(weights="int8"); got {export!r}.')
    model = trained_model(model)
    if annotations(model).shrinking is not None:
        raise ModelError(
            f"'{model.name}' still has the channels that PruneChannels removes. Pass what stage.strip(model) returns."
        )
    if settings.integer_only and (stage := annotations(model).stripped_of):
        warnings.warn(
            f"the ranges that {stage} has trained are not in the model that strip returned, so the file gets others "
            "from the samples. Export the model that apply returned, after fit.",
            stacklevel=2,
        )
    if path is None:
        return build_file(model, settings, representative_data)
    lite = write_proven(Path(path), model, settings, representative_data)
    written = LiteModel(path)
    written.notes = lite.notes
    return written


def write_proven(path: Path, model: Any, settings: Export, representative_data: Any = None) -> LiteModel:
    """Write the file of `build_file` to `path`; one that drifts from `model` is kept next to it and is an error."""
    try:
        lite = build_file(model, settings, representative_data)
    except PromiseError as error:
        raise kept_beside(error, path) from error
    write_atomically(path, lite.data)
    return lite


def build_file(
    model: Any,
    settings: Export,
    representative_data: Any = None,
    promises: Sequence[Promise] = (),
    flat_model: Any = None,
    *,
    proven: bool = True,
) -> LiteModel:
    """Convert `model` and check the file; return it with notes, see `verify_promises` and `verify_types`.

    `flat_model` is the flat tf_keras model whose kernels the `promises` are about. Class names of a `Dataset` are
    written into the file. Raises what `export_tflite` does.
    """
    representative_data = without_generator(representative_data, settings.calibration_samples)
    if settings.weights == "int4" and settings.activations == "int8" and not is_quantization_aware(model):
        return _in_4_bits(model, settings, representative_data, promises, flat_model, proven=proven)
    return _in_floats_where_needed(model, settings, representative_data, promises, flat_model, proven=proven)


def _in_floats_where_needed(
    model: Any, settings: Export, data: Any, promises: Sequence[Promise], flat_model: Any, *, proven: bool
) -> LiteModel:
    """Return the file of `settings`, with the fewest operators in float that make it compute what `model` does."""
    make = functools.partial(_built, model, data=data, promises=promises, flat_model=flat_model)
    error: PromiseError | ModelError | None = None
    aware = is_quantization_aware(model)
    if settings.max_noise is None:
        try:
            return make(settings, proven=proven)
        except PromiseError as why:
            if not settings.may_mix or (why.data is None and (why.layer or not aware)):
                raise
            error = why
        except ModelError as why:  # e.g. LiteRT cannot run it, where scales are too unlike for its kernels
            if not settings.may_mix or not (aware or (isinstance(why, CannotRunError) and data is not None)):
                raise
            error = why
        if aware:
            with contextlib.suppress(TfoptError):
                return make(settings, proven=proven, only_trained=True)

            def with_insides(layers: Collection[str], others: Export) -> LiteModel:
                return make(others, proven=proven, float_insides=layers)

            return with_float_insides(model, settings, with_insides, error)
    for share in SHARES_OF_NOISE:
        try:
            return make(_with_limit(settings, share), proven=proven, max_noise=settings.max_noise)
        except PromiseError as why:
            if why.layer:
                raise
            error = error or why
            if why.data is None:
                break
        except TfoptError:
            if error is None:
                raise
            break
    assert error is not None
    raise error


def _in_4_bits(
    model: Any, settings: Export, data: Any, promises: Sequence[Promise], flat_model: Any, *, proven: bool
) -> LiteModel:
    """Return the file of litert-quantizer, or that of the converter with stored integers if there is none."""
    make = functools.partial(_built, data=data, promises=promises, flat_model=flat_model)
    strict = dataclasses.replace(settings, mixed=False)
    try:
        return make(model, strict, proven=proven)
    except (ModelError, PromiseError) as why:
        if data is None:
            raise
        error = why
    flat = model_to_convert(model)
    try:
        mixed = functools.partial(
            _in_floats_where_needed, data=data, promises=promises, flat_model=flat_model, proven=False
        )
        rounded, others = rounded_to_4_bits(flat, data, settings, mixed)
        lite = mixed(rounded, others, proven=proven)
    except TfoptError:
        raise error from None
    weights = contents(lite).weights
    total, narrow = sum(weights.values()), weights.get("int4", 0)
    if narrow < total:
        others_held = f"{total - narrow:,} of {total:,} weights in 8 bits or in float: no operator takes fewer"
        lite.notes = (*lite.notes, others_held)
    if proven:
        held = dataclasses.replace(settings, weights="int4" if narrow else "int8")
        said = [note for note in lite.notes if not note.startswith(COMPARED)]  # with the rounded model
        lite.notes = (*said, *prove(model, flat, lite, lite, held, data))
    return lite


def build(model: Any, settings: Export, representative_data: Any = None) -> tuple[LiteModel, list[str]]:
    """Return the file of `build_file` and its notes. Works for one release: the notes are `LiteModel.notes`."""
    warnings.warn("build is now build_file and returns the file alone; its notes are in .notes.", DeprecationWarning, 2)
    lite = build_file(model, settings, representative_data)
    return lite, list(lite.notes)


def _with_limit(settings: Export, share: float) -> Export:
    """Return settings by which operators stay in float until the noise is a `share` of what is allowed."""
    limit = settings.max_noise or most_noise([settings.weights])
    return dataclasses.replace(settings, max_noise=limit * share, activation_ranges="max")


def _built(
    model: Any,
    settings: Export,
    *,
    data: Any,
    promises: Sequence[Promise],
    flat_model: Any,
    proven: bool,
    max_noise: float | None = None,
    only_trained: bool = False,
    float_insides: Collection[str] = (),
) -> LiteModel:
    """Return the file of `settings`, checked, and compared with the model to within `max_noise` (None: as usual).

    With `only_trained`, operators for which `Quantize` has trained no range stay in float; the insides of the layers
    `float_insides` do in any case.
    """
    calibration = None
    if settings.integer_only and data is not None:
        calibration = Calibration(data, settings.calibration_samples)
    native.start()  # it imports TensorFlow while the model crosses the bridge
    border = settings.border
    if settings.io is None and settings.integer_only and has_float_ends(model):
        settings = dataclasses.replace(settings, io="float32")
    to_convert = model_to_convert(model)
    trained_ranges = layers_with_trained_scales(model)

    def breaks(made: bytes) -> bool:
        try:
            lite = LiteModel(_with_stored_integers(made, model, settings)[0])
            verify_promises(lite, flat_model, promises, trained_ranges=trained_ranges)
        except PromiseError:
            return True
        return False

    ranges = None if only_trained else calibration
    content, notes = _with_stored_integers(convert(model, settings, ranges, to_convert, breaks=breaks), model, settings)
    if settings.io is None and settings.activations == "int8" and (apps := with_photo_ends(content, data)) != content:
        content, settings = apps, dataclasses.replace(settings, io="uint8")
    named = load_and_check(content, settings)
    lite = LiteModel(with_metadata(compact(named.data) if settings.compact else named.data, data))
    names = LayerNames(named, _layers(model))
    lite.layers = {op.index: ", ".join(names.near(op)) for op in named.ops() if op.subgraph == 0 and op.outputs}
    if settings.max_noise is not None:
        require_integers(named, settings, max_noise)
    settings, in_float = allowed_floats(settings, model, named, names, only_trained=only_trained, insides=float_insides)
    verify_finite(named, names)
    # The file with names first, for the sake of the messages; then the one that is written.
    found = [*port_notes(named, settings), *verify_types(named, settings, in_float, names)]
    found += verify_missing_values(named, settings, names)
    verify_types(lite, settings, in_float, LayerNames(lite, ()))
    # Names tell where the kernels are; the file without them has the same tensors.
    places = promised_kernels(named, flat_model, promises) if promises else {}
    for file, found_in in ((named, places), (lite, same_places(places, lite))):
        promised = verify_promises(file, flat_model, promises, trained_ranges=trained_ranges, places=found_in)
    if settings.border == "float32" != border:
        found.append(f"inputs and outputs are float32, since as {border} they would lose too much")
    if isinstance(data, Dataset) and is_fed_by_channel(data) and settings.border in ("int8", "uint8"):
        found.append(
            f"the {settings.border} input takes values of '{data.preprocessing.describe()}', not bytes of pixels"
        )
    # After `Quantize`, samples serve only what it has trained no range for.
    calibrated = calibration.notes(named, names) if calibration and not is_quantization_aware(model) else []
    notes += [*_about_sizes(settings, to_convert, lite), *_about_states(named, names)]
    if proven and calibration and not is_quantization_aware(model):
        notes += compared_with_float(model, to_convert, lite, settings, calibration)
    compared = prove(model, to_convert, named, lite, settings, data, max_noise=max_noise) if proven else []
    lite.notes = (*notes, *promised, *found, *calibrated, *compared)
    return lite


def _with_stored_integers(data: bytes, model: Any, settings: Export) -> tuple[bytes, list[str]]:
    """Return the file with the integers that the weights of `model` represent, if any, and notes."""
    integers = integers_of(model) if settings.weights == "int8" else {}
    if settings.activations != "int8":  # where sums are in float, fewer bits have no operators
        integers = {key: found for key, found in integers.items() if found.bits == 8}
    if integers and settings.activations != "int16" and not settings.by_edge_quantizer:
        return store_integers(data, model, integers)
    return data, []


def _about_sizes(settings: Export, flat_model: Any, lite: LiteModel) -> Iterator[str]:
    """Yield notes on sizes of the inputs that were to stay free, and could not."""
    given = next((tensor.shape[0] for tensor in flat_model.inputs if tensor.shape[0]), None)
    if settings.batch == "dynamic" and given:
        yield f"made for {counted(given, 'sample')} at a time: the model's Input fixes its batch size"
    elif settings.batch == "dynamic" and any(port.shape[0] is not None for port in lite.inputs):
        yield "made for one sample at a time: with a free batch it cannot be converted as asked"
    if any(None in tensor.shape[1:] for tensor in flat_model.inputs) and not any(
        None in p.shape[1:] for p in lite.inputs
    ):
        shapes = ", ".join(str(port.shape) for port in lite.inputs)
        yield f"made for inputs of the samples' size, {shapes}: with free sizes it cannot be converted as asked"


def _about_states(named: LiteModel, names: LayerNames) -> Iterator[str]:
    """Yield a note on operators whose states LiteRT keeps from one run to the next."""
    keeping = [op for op in named.ops() if op.name in KEEPING_STATES]
    if keeping:
        layers = dict.fromkeys(layer for op in keeping for layer in names.near(op) or [op.name])
        yield (
            f"LiteRT goes on from the last states of {', '.join(layers)}: call the interpreter's reset_all_variables() "
            "before each new sample, as tfopt does"
        )


def _layers(model: Any) -> Iterator[str]:
    """Yield the names of the flat model's layers, lazily."""
    if is_quantization_aware(model):
        yield from (unwrapped(layer).name for layer in model.layers if type(layer).__name__ != "InputLayer")
    else:
        yield from (name for name, _, _ in bridge.flat_layers(model))
