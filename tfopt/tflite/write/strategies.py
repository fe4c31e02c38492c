"""Conversion strategies: which layers compute in an equivalent form, and the shapes to trace with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides
from tfopt.errors import ModelError
from tfopt.graph.types import pack
from tfopt.graph.walk import walk
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration, argument_names, output_names, static_batch
from tfopt.tflite.write.recurrent import maskings, recurrent_layers, unrolled

# Maximum number of steps up to which a recurrent layer is unrolled; each step copies its operators.
UNROLLED_AT_MOST = 128
Trace = Callable[[Any, Calibration | None], tuple[Any, Any]]
"""Traces a flat tf_keras model; returns the concrete function and the object that keeps its variables."""


@dataclass(frozen=True)
class Strategy:
    """One way to convert a model.

    Attributes:
        overrides: what layers compute instead while the model is traced.
        trace: traces it.
        rescue: whether it is tried only where the converter has failed for all before it.
    """

    overrides: Overrides
    trace: Trace
    rescue: bool = False


def strategies_for(flat_model: Any, settings: Export, samples: Calibration | None) -> list[Strategy]:
    """Return the ways to try the conversion, the one with the fewest operators first.

    A shape that is asked for, as by Conv2DTranspose, stays float where a size is free. A recurrent layer needs
    a fixed batch, or must be unrolled: only a plain LSTM is one operator. Loops of others keep float states,
    and crash the converter (the whole process) when it looks for their ranges in `samples`. Where the model leaves
    the number of steps free, they are unrolled over that of the samples.
    """
    calibrated = samples is not None
    layers, dynamic = recurrent_layers(flat_model), settings.batch == "dynamic"
    usual = _free_batch if dynamic else _static_batch
    if not layers:
        shapes = [tuple(tensor.shape) for tensor in flat_model.inputs]
        ways: list[Trace] = [usual]
        if dynamic and any(shape[0] is None for shape in shapes):
            ways.append(_static_batch)
        if calibrated and any(None in shape[1:] for shape in shapes):
            ways.append(_sizes_of_samples)
        found = [Strategy([], trace) for trace in ways]
        if not dynamic and any(shape[0] is None for shape in shapes):
            # The converter takes (1, 1, 1, n) for a bias, and fails to add it to another one.
            found.append(Strategy([], _free_batch, rescue=True))
        return found
    loops = [one for one in layers if not one.fused]
    crashes = calibrated and loops and not settings.by_edge_quantizer
    steps = [one.steps or _longest(flat_model, samples) for one in layers]
    short = all(number is not None and number <= UNROLLED_AT_MOST for number in steps)
    if crashes and not short:
        names = dict.fromkeys(unwrapped(one.layer).name for one in loops)
        raise ModelError(
            f"The converter does not support int8 activations for {', '.join(names)}: recurrent layers other than a "
            "plain LSTM (tanh, sigmoid, bias, no mask, no states in or out) must be unrolled, over at most "
            f"{UNROLLED_AT_MOST} steps; got {steps}. Give the Input or the samples a shorter length, use a plain LSTM, "
            'or choose activations="float32".'
        )
    masks = maskings(flat_model) if calibrated else []
    strategies = [] if crashes else [Strategy(masks, _sizes_of_samples)]
    free = any(one.steps is None for one in layers)
    if short:
        trace = _sizes_of_samples if free else usual
        strategies.append(Strategy(masks + unrolled(layers, blended=calibrated), trace))
    return strategies[::-1] if dynamic and not free else strategies


def _longest(flat_model: Any, samples: Calibration | None) -> int | None:
    """Return the largest size that `samples` have where an input leaves it free; None if there is none."""
    if samples is None:
        return None
    sizes = [
        size
        for name, tensor in zip(argument_names(flat_model), flat_model.inputs, strict=True)
        for size, fixed in zip(samples.shapes[name], tensor.shape[1:], strict=True)
        if fixed is None
    ]
    return max(sizes, default=None)


def _free_batch(flat_model: Any, samples: Calibration | None) -> tuple[Any, Any]:
    """Return the traced model for batches of any size, unless the model says otherwise."""
    del samples
    return _traced(flat_model, [tuple(tensor.shape) for tensor in flat_model.inputs])


def _static_batch(flat_model: Any, samples: Calibration | None) -> tuple[Any, Any]:
    """Return the traced model for a batch of one, or of the size its inputs have; other sizes may be free."""
    del samples
    return _traced(flat_model, _with_batch(flat_model))


def _sizes_of_samples(flat_model: Any, samples: Calibration | None) -> tuple[Any, Any]:
    """Return the traced model for a batch as in `_static_batch`, with other free sizes as in `samples`, else free."""
    shapes = _with_batch(flat_model)
    if samples is not None:
        names = argument_names(flat_model)
        shapes = [(shape[0], *samples.shapes[name]) for name, shape in zip(names, shapes, strict=True)]
    return _traced(flat_model, shapes)


def _with_batch(flat_model: Any) -> list[tuple[int | None, ...]]:
    """Return the shapes of the inputs; where the batch is free, it is that of the others, or one."""
    batch = static_batch(flat_model)
    return [(tensor.shape[0] or batch, *tensor.shape[1:]) for tensor in flat_model.inputs]


def _traced(flat_model: Any, shapes: Sequence[tuple[int | None, ...]]) -> tuple[Any, Any]:
    """Return the model traced as one function for inputs of these shapes, and the object that keeps its variables."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec(shape, tensor.dtype, name)
        for shape, tensor, name in zip(shapes, flat_model.inputs, argument_names(flat_model), strict=True)
    ]
    struct = walk(flat_model, keep_names=True).inputs_struct
    names = output_names(flat_model)

    def run(*inputs: Any) -> dict[str, Any]:
        outputs = flat_model(pack(struct, list(inputs)), training=False)
        return dict(zip(names, tf.nest.flatten(outputs), strict=True))

    traced = tf.function(run, autograph=False)
    holder = tf.Module()
    holder.variables_of_the_model = list(flat_model.variables)
    return traced.get_concrete_function(*specs), holder
