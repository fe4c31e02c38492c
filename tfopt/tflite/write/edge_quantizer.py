"""Quantize a float `.tflite` with litert-quantizer: 4-bit weights, and integer weights for float computation."""

import contextlib
import io
import itertools
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfopt.base.stderr import native_noise_held
from tfopt.errors import ModelError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.byte_inputs import byte_ranges

SIGNATURE = "serving_default"
SAMPLES_AT_ONCE = 32
EVERYWHERE = ".*"


def quantized(
    data: bytes,
    settings: Export,
    samples: Iterable[Mapping[str, Any]] | None,
    *,
    in_float: Iterable[str] = (),
    border: str | None = None,
) -> bytes:
    """Return a float .tflite with weights and activations quantized as in `settings`.

    Operators without a 4-bit form get 8 bits. Those without any integer form silently stay float;
    `types.verify_types` detects them.

    Args:
        data: a float .tflite with a signature.
        settings: the types of weights, activations, inputs and outputs.
        samples: inputs by name, whose extremes give the activation ranges; None keeps activations in float.
        in_float: results of operators that stay float, by tensor name.
        border: the type of inputs and outputs, if it is not that of the settings.

    Returns:
        The quantized file.

    Raises:
        ModelError: litert-quantizer fails.
    """
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.qtyping import TFLOperationName as Operator
    from litert_quantizer.quantizer import Quantizer

    recipe = _recipe(settings, border or settings.border)
    for name in in_float:
        recipe.add_quantization_config(re.escape(name), Operator.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE)
    progress = contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), native_noise_held(), progress:
        warnings.simplefilter("ignore")  # about the memory needed to keep all tensors
        try:
            ranges = _ranges(data, recipe, samples, settings) if samples is not None else None
            quantizer = Quantizer(data, recipe.get_quantization_recipe())
            return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())
            raise ModelError(f"The model cannot be converted by litert-quantizer: {said}") from error


def products_of_constants(data: bytes) -> list[str]:
    """Return the results of BATCH_MATMUL whose first operand is a constant; LiteRT multiplies float by integers only.

    litert-quantizer stores such a constant, as learned queries are, in integers, and the second operand stays float.
    """
    lite = LiteModel(data)
    tensors = {(tensor.subgraph, tensor.index): tensor for tensor in lite.tensors()}
    products = [op for op in lite.ops() if op.name == "BATCH_MATMUL" and tensors[op.subgraph, op.inputs[0]].constant]
    return [tensors[op.subgraph, op.outputs[0]].name for op in products]


def _recipe(settings: Export, border: str) -> Any:
    """Return a recipe: 8 bits where supported, then 4 where supported. The last rule that is supported wins."""
    from litert_quantizer.qtyping import TFLOperationName as Operator
    from litert_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    rules = [(Operator.ALL_SUPPORTED, 8)]
    if settings.weights == "int4":
        more = (Operator.BATCH_MATMUL,) if settings.weight_only else ()
        embeddings = () if settings.integer_only else (Operator.EMBEDDING_LOOKUP, *more)
        rules += [(operator, 4) for operator in (Operator.CONV_2D, Operator.FULLY_CONNECTED, *embeddings)]
    for operator, bits in rules:
        if settings.integer_only:
            activation_bits = {"int8": 8, "int16": 16}[settings.activations]
            recipe.add_static_config(EVERYWHERE, operator, activation_bits, bits)
        elif settings.weight_only:
            recipe.add_weight_only_config(EVERYWHERE, operator, bits)
        else:
            recipe.add_dynamic_config(EVERYWHERE, operator, bits)
    if settings.integer_only and border != settings.activations:
        for end in (Operator.INPUT, Operator.OUTPUT):
            _set_border(recipe, end, border)
    return recipe


def _set_border(recipe: Any, end: Any, dtype: str) -> None:
    """Set the type of the inputs or outputs of the file to "float32" or "uint8"."""
    from litert_quantizer import qtyping
    from litert_quantizer.algorithm_manager import AlgorithmName

    if dtype == "float32":
        recipe.add_quantization_config(EVERYWHERE, end, algorithm_key=AlgorithmName.NO_QUANTIZE)
        return
    unsigned = qtyping.TensorQuantizationConfig(num_bits=8, symmetric=False, dtype=qtyping.TensorDataType.UINT)
    weights = qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    )
    recipe.add_quantization_config(
        EVERYWHERE,
        end,
        qtyping.OpQuantizationConfig(
            activation_tensor_config=unsigned,
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.INTEGER,
        ),
    )


def _ranges(data: bytes, recipe: Any, samples: Iterable[Mapping[str, Any]], settings: Export) -> Any:
    """Return the range of each tensor. Calibrates in batches, because `calibrate` holds all its samples in memory."""
    from litert_quantizer.calibrator import Calibrator
    from litert_quantizer.utils.qsv_utils import min_max_update

    calibrator = Calibrator(data, num_threads=1, qsv_update_func=min_max_update)
    left = iter(samples)
    while some := list(itertools.islice(left, SAMPLES_AT_ONCE)):
        calibrator.calibrate({SIGNATURE: some}, recipe)
    ranges = calibrator.get_model_qsvs()
    for ends in ranges.values():
        if not np.any(ends["min"]) and not np.any(ends["max"]):  # of a layer whose units are all dead
            ends["max"] = np.ones_like(ends["max"])
    found = byte_ranges(samples) if settings.activations == "int8" else {}
    if found:
        lite = LiteModel(data)
        names = {tensor.index: tensor.name for tensor in lite.tensors() if tensor.subgraph == 0}
        for port in lite.inputs:
            ends = zip(("min", "max"), found.get(port.name, ()), strict=False)
            ranges[names[port.index]].update({end: np.full_like(ranges[names[port.index]][end], v) for end, v in ends})
    return ranges
