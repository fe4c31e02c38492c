"""litert-quantizer, on a float `.tflite`: weights of 4 bits, and weights that are computed with in float."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from tfopt.base.stderr import native_noise_held
from tfopt.errors import ModelError
from tfopt.tflite.settings import Export

SIGNATURE = "serving_default"
SAMPLES_AT_ONCE = 32
EVERYWHERE = ".*"


def quantized(data: bytes, settings: Export, samples: Iterable[Mapping[str, Any]] | None) -> bytes:
    """The float .tflite `data`, which must have a signature, with weights and activations as `settings` say.

    What has no form of 4 bits gets 8. What has no integer form at all stays float, in silence: see
    `types.verify_types`. Ranges are the least and greatest values for the `samples`, without which
    activations stay float. Raises ModelError when litert-quantizer fails.
    """
    from litert_quantizer.quantizer import Quantizer

    recipe = _recipe(settings)
    progress = contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), native_noise_held(), progress:
        warnings.simplefilter("ignore")  # about the memory that keeping all tensors takes
        try:
            ranges = _ranges(data, recipe, samples) if samples is not None else None
            quantizer = Quantizer(data, recipe.get_quantization_recipe())
            return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())
            raise ModelError(f"The model cannot be converted by litert-quantizer: {said}") from error


def _recipe(settings: Export) -> Any:
    """8 bits wherever there is a form for it, then 4 where there is one; of two rules the last that can be wins."""
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
    if settings.integer_only and settings.border != settings.activations:
        for end in (Operator.INPUT, Operator.OUTPUT):
            _set_border(recipe, end, settings.border)
    return recipe


def _set_border(recipe: Any, end: Any, dtype: str) -> None:
    """Let the inputs or outputs of the file hold "float32" or "uint8"."""
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


def _ranges(data: bytes, recipe: Any, samples: Iterable[Mapping[str, Any]]) -> Any:
    """Of each tensor, in batches: `calibrate` makes a list of all that it is given."""
    from litert_quantizer.calibrator import Calibrator
    from litert_quantizer.utils.qsv_utils import min_max_update

    calibrator = Calibrator(data, num_threads=1, qsv_update_func=min_max_update)
    left = iter(samples)
    while some := list(itertools.islice(left, SAMPLES_AT_ONCE)):
        calibrator.calibrate({SIGNATURE: some}, recipe)
    return calibrator.get_model_qsvs()
