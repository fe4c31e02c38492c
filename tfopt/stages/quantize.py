"""Quantize: 8-bit quantization-aware training (Jacob et al. 2017, arXiv:1712.05877) through TF-MOT."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveInt

from tfopt import bridge
from tfopt.config import config
from tfopt.errors import ModelError, RecipeError
from tfopt.legacy import tf_keras, tfmot, tfmot_module
from tfopt.stages.folding import folded_into
from tfopt.stages.kernels import has_kernel, kernel
from tfopt.stages.quantizers import Scheme, Structure, preserving_quantizer, structure_of
from tfopt.stages.stage import Stage, inner

# The scheme for what earlier stages established, under the names of TF-MOT's collaborative optimization.
SCHEMES: dict[frozenset[str], Scheme] = {
    frozenset(): Scheme("QAT", zeros=False, clusters=False),
    frozenset({"sparsity"}): Scheme("PQAT", zeros=True, clusters=False),
    frozenset({"clusters"}): Scheme("CQAT", zeros=False, clusters=True),
    frozenset({"sparsity", "clusters"}): Scheme("PCQAT", zeros=True, clusters=True),
}

# Layers that TF-MOT refuses although quantizing their output is all that the `.tflite` needs.
OUTPUT_ONLY = (
    "Average", "ELU", "LayerNormalization", "Maximum", "Minimum", "Multiply", "Normalization", "PReLU",
    "Rescaling", "Subtract",
)  # fmt: skip
# An int8 average pooling has one scale for input and output; a range of its own would cost another operator.
PASS_THROUGH = ("AveragePooling1D", "AveragePooling2D")
ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh", "gelu", "swish")
CALIBRATION_BATCH = 64


@config
class Quantize(Stage):
    """Train with the rounding to int8 weights and activations in the forward pass.

    Zeros and clusters that earlier stages established stay (see `SCHEMES`). Clusters of a whole kernel get
    one scale for the whole kernel, so that the int8 file holds no more different values than the kernel.
    All layers are quantized: `layers` must stay empty.

    Attributes:
        calibration_samples: training inputs whose ranges the activation quantizers start from. TF-MOT
            starts at -6..6 and needs thousands of steps to forget it.
    """

    calibration_samples: PositiveInt = 512

    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity", "clusters"})
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.layers:
            raise RecipeError(f"Quantize works on the whole model and takes no layer rules; got {self.layers}.")

    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        del model
        kept = f", keeps {' and '.join(sorted(keep))}" if keep else ""
        return [f"{SCHEMES[keep].name}{kept}"]

    def _wrap(self, legacy: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps
        legacy = bridge.fuse_relu(legacy)  # TF-MOT would leave the kernel in front of a separate ReLU in float
        _require_supported(legacy)
        quantization = tfmot().quantization.keras

        def annotate(layer: Any) -> Any:
            duplicate = layer.__class__.from_config(layer.get_config())
            return quantization.quantize_annotate_layer(duplicate, _special_config(layer))

        annotated = tf_keras().models.clone_model(legacy, clone_function=annotate)
        annotated.set_weights(legacy.get_weights())
        with quantization.quantize_scope():
            quantized = quantization.quantize_apply(annotated, _tfmot_scheme(_structures(legacy, SCHEMES[keep])))
        _require_quantized_kernels(quantized)
        _set_weight_ranges(quantized)
        return quantized

    def calibrate(self, model: Any, inputs: np.ndarray) -> None:
        """Start every quantizer at the range that the float model shows on `inputs` (float32, batch first)."""
        samples = inputs[: self.calibration_samples]
        with _recording(model) as ranges:
            for start in range(0, len(samples), CALIBRATION_BATCH):
                model(samples[start : start + CALIBRATION_BATCH], training=False)
        for variables, low, high in ranges.values():
            variables["min_var"].assign(min(low, 0.0))  # zero must be representable: padding and ReLU need it
            variables["max_var"].assign(max(high, 0.0))

    def _trained_weights(self, layer: Any, plain: Any) -> list[np.ndarray]:
        """The weights as the file will hold them: kernels on their int8 grid."""
        values = {_short_name(weight): weight.numpy() for weight in inner(layer).weights}
        for weight, quantizer, variables in getattr(layer, "_weight_vars", []):
            values[_short_name(weight)] = quantizer(weight, False, weights=variables).numpy()
        return [values[_short_name(weight)] for weight in plain.weights]


def _structures(model: Any, scheme: Scheme) -> dict[str, Structure]:
    return {
        layer.name: structure_of(kernel(layer).numpy(), scheme, output_channels_last=type(layer).__name__ == "Conv2D")
        for layer in model.layers
        if has_kernel(layer)
    }


def _tfmot_scheme(structures: dict[str, Structure]) -> Any:
    """TF-MOT's 8-bit scheme, with kernels that have zeros or clusters to keep under our own quantizer."""
    module = tfmot_module("quantization.keras.default_8bit.default_8bit_quantize_registry")
    default = tfmot_module("quantization.keras.default_8bit.default_8bit_quantize_scheme").Default8BitQuantizeScheme

    class Registry(module.Default8BitQuantizeRegistry):  # type: ignore[name-defined]
        def get_quantize_config(self, layer: Any) -> Any:
            config = super().get_quantize_config(layer)
            structure = structures.get(layer.name, Structure())
            if structure.mask is None and structure.centroids is None:
                return config
            config = copy.copy(config)  # TF-MOT hands the same object to all convolutions
            per_axis = config.weight_quantizer.per_axis
            config.weight_quantizer = preserving_quantizer()(per_axis=per_axis, structure=structure)
            return config

    class PreservingScheme(default):  # type: ignore[misc, valid-type]
        def get_quantize_registry(self) -> Any:
            return Registry()

    return PreservingScheme()


def _special_config(layer: Any) -> Any:
    """A QuantizeConfig where TF-MOT has none or a worse one, else None (TF-MOT's own choice)."""
    configs = tfmot_module("quantization.keras.default_8bit.default_8bit_quantize_configs")
    alone = type(layer).__name__ == "BatchNormalization" and folded_into(layer) is None
    if alone or type(layer).__name__ in OUTPUT_ONLY:
        return configs.Default8BitOutputQuantizeConfig()
    if type(layer).__name__ in PASS_THROUGH:
        return configs.NoOpQuantizeConfig()
    return None


def _require_supported(model: Any) -> None:
    registry = tfmot_module("quantization.keras.default_8bit.default_8bit_quantize_registry")
    supports = registry.Default8BitQuantizeRegistry().supports
    problems = []
    for layer in model.layers:
        kind = type(layer).__name__
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if kind == "InputLayer":
            continue
        if not supports(layer) and _special_config(layer) is None and kind != "BatchNormalization":
            problems.append(f"'{layer.name}' ({kind})")
        elif activation not in (*ACTIVATIONS, "relu6") or (activation == "relu6" and kind != "Activation"):
            problems.append(f"'{layer.name}' ({kind} with activation {activation})")
    if problems:
        raise ModelError(
            f"Quantization-aware training cannot handle: {', '.join(problems)}. Replace these layers, put the "
            f"activation into a layer of its own (known: {', '.join(ACTIVATIONS)}, and relu6 as a layer), or leave "
            'Quantize out and export with weights="int8", activations="int8" after training.'
        )


def _require_quantized_kernels(model: Any) -> None:
    """No kernel may be left in float in silence, as TF-MOT does for a convolution before a separate ReLU."""
    forgotten = [
        inner(layer).name
        for layer in model.layers
        if has_kernel(inner(layer)) and not getattr(layer, "_weight_vars", None)
    ]
    if forgotten:
        raise ModelError(
            f"TF-MOT leaves the weights of {', '.join(forgotten)} unquantized (a ReLU layer that is not the only "
            "consumer of their output). Use activation='relu' in the layer itself."
        )


def _set_weight_ranges(model: Any) -> None:
    """Give weights the ranges that they have, as a first training step would; TF-MOT begins at -6..6."""
    for layer in model.layers:
        for weight, quantizer, variables in getattr(layer, "_weight_vars", []):
            quantizer(weight, True, weights=variables)


@contextmanager
def _recording(model: Any) -> Iterator[dict[int, Any]]:
    """While this lasts, activations pass `model` unrounded and their ranges are collected.

    Yields a dict whose values are [quantizer variables, smallest value, largest value].
    """
    ranges: dict[int, Any] = {}

    def record(inputs: Any, training: bool, weights: dict[str, Any]) -> Any:
        del training
        values = inputs.numpy()
        seen = ranges.setdefault(id(weights["min_var"]), [weights, np.inf, -np.inf])
        seen[1], seen[2] = min(seen[1], values.min()), max(seen[2], values.max())
        return inputs

    undo = []

    def replace(owner: Any, attribute: str, value: Any) -> None:
        undo.append((owner, attribute, getattr(owner, attribute)))
        object.__setattr__(owner, attribute, value)  # past Keras, which would track the value

    for layer in model.layers:
        if getattr(layer, "quantizer", None) is not None:  # TF-MOT's layer for the model's inputs
            replace(layer, "quantizer", record)
        if getattr(layer, "_output_quantizers", None):
            replace(layer, "_output_quantizers", [record])
        for activation in getattr(layer, "_quantize_activations", []):
            replace(activation, "quantizer", record)
    try:
        yield ranges
    finally:
        for owner, attribute, value in reversed(undo):
            object.__setattr__(owner, attribute, value)


def _short_name(weight: Any) -> str:
    """'kernel' for 'dense_2/kernel:0'."""
    return str(weight.name).split(":")[0].split("/")[-1]
