"""Prepare recurrent layers for conversion: find those that the converter fuses, and unroll the others.

TFLite has an operator only for the textbook LSTM. Any other loop becomes a WHILE, whose states stay in float and on
which the converter crashes during calibration.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import unwrapped
from tfopt.base.overrides import Overrides
from tfopt.bridge.policy import is_tf_keras
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.layer_facts import facts_of

Call = Callable[..., Any]
"""(values of one step, states) -> (output, states)."""
Mask = Callable[[Any, Any], Any]
"""(new value, old value or None for zeros) -> the value after a step."""


@dataclass(frozen=True)
class Recurrent:
    """A layer that loops over time steps.

    Attributes:
        layer: the layer of the flat model that is or contains it.
        part: the layer that loops: of tf_keras, or of Keras 3 if it is carried.
    """

    layer: Any
    part: Any

    @property
    def steps(self) -> int | None:
        """The number of time steps; None if the model leaves it free."""
        shape: tuple[int | None, ...] = _first(self.layer.get_input_shape_at(0))
        return shape[2 if facts_of(unwrapped(self.layer)).family == "time_distributed" else 1]

    @property
    def fused(self) -> bool:
        """Whether the converter fuses it into one operator: an LSTM that cuDNN supports, without masks and states."""
        part = self.part
        return (
            facts_of(part).one_operator
            and keras_internals.matches_gpu_kernel(part)
            and not part.return_state
            and not part.stateful
            and not part.unroll
            and len(_flat(self.layer.get_input_at(0))) == 1
            and all(mask is None for mask in _flat(self.layer.get_input_mask_at(0)))
        )


def recurrent_layers(flat_model: Any) -> list[Recurrent]:
    """Return all layers of a flat tf_keras model that loop over time steps."""
    found = []
    for layer in flat_model.layers:
        for part in keras_internals.flat_layers(layer):
            for each in (part, getattr(part, "operation", None)):
                if hasattr(each, "unroll") and hasattr(each, "cell"):
                    found.append(Recurrent(layer, each))
    return found


def unrolled(layers: Sequence[Recurrent], *, blended: bool = False) -> Overrides:
    """Return overrides that unroll these layers: each step becomes a copy of the cell's operators.

    Args:
        layers: of the model.
        blended: keep a state where the mask is False by arithmetic, new * mask + old * (1 - mask). Selecting is exact,
            but in int8 it needs one scale for old and new values, which the converter cannot give to all cells.
    """
    loops = [
        (one.part, "inner_loop", _inner_loop(one.part, blended))
        if not is_tf_keras(one.part)
        else (one.part, "call", _call(one.part, blended))
        for one in layers
    ]
    cells = [cell for one in layers for cell in getattr(one.part.cell, "cells", [one.part.cell])]
    return loops + [(cell, "call", _reset_before(cell)) for cell in cells if _resets_before(cell)]


def check_states(layers: Sequence[Recurrent]) -> None:
    """Raise ModelError for layers that go on from the states of the last call, which a file does not keep."""
    if kept := [unwrapped(one.layer).name for one in layers if one.part.stateful]:
        raise ModelError(
            f"The layers {', '.join(dict.fromkeys(kept))} are stateful, but not every .tflite keeps states from one "
            "call to the next. Build the model with stateful=False; where it must go on, make the states inputs and "
            "outputs of the model (initial_state=..., return_state=True)."
        )


def _resets_before(cell: Any) -> bool:
    return is_tf_keras(cell) and getattr(cell, "reset_after", True) is False  # only a GRU cell has it


def _reset_before(cell: Any) -> Call:
    """Return the `call` of a GRUCell without `reset_after`; Keras's splits off an empty tensor, without a range."""
    import tensorflow as tf

    def call(values: Any, states: Any, training: Any = None) -> Any:
        (state,) = tf.nest.flatten(states)
        given = tf.matmul(values, cell.kernel)
        if cell.use_bias:
            given = given + cell.bias
        for_update, for_reset, for_candidate = tf.split(given, 3, axis=-1)
        gates = cell.recurrent_kernel[:, : 2 * cell.units]
        update_state, reset_state = tf.split(tf.matmul(state, gates), 2, axis=-1)
        update = cell.recurrent_activation(for_update + update_state)
        reset = cell.recurrent_activation(for_reset + reset_state)
        candidate = tf.matmul(reset * state, cell.recurrent_kernel[:, 2 * cell.units :])
        after = update * state + (1 - update) * cell.activation(for_candidate + candidate)
        return after, [after]

    return call


def maskings(flat_model: Any) -> Overrides:
    """Return overrides that make `Masking` multiply by a constant 1 or 0, since no int8 operator casts a bool.

    Selecting the values themselves would give the input the scale of the output, in which `mask_value` may be lost.
    """
    parts = [part for layer in flat_model.layers for part in keras_internals.flat_layers(layer)]
    return [(part, "call", _masking(part)) for part in parts if type(part).__name__ == "Masking"]


def repetitions(flat_model: Any) -> Overrides:
    """Return overrides that turn `RepeatVector` into PACK, which microcontrollers support; they have no TILE."""
    layers = [unwrapped(layer) for layer in flat_model.layers]
    return [(layer, "call", _repetition(layer)) for layer in layers if type(layer).__name__ == "RepeatVector"]


def _repetition(layer: Any) -> Call:
    import tensorflow as tf

    def call(inputs: Any) -> Any:
        return tf.stack([inputs] * layer.n, axis=1)

    return call


def _masking(layer: Any) -> Call:
    import tensorflow as tf

    def call(inputs: Any) -> Any:
        keep = tf.reduce_any(tf.not_equal(inputs, layer.mask_value), axis=-1)
        outputs = inputs * tf.where(keep[..., None], tf.ones((), inputs.dtype), tf.zeros((), inputs.dtype))
        keras_internals.set_mask(outputs, keep)
        return outputs

    return call


def _call(layer: Any, blended: bool) -> Call:
    """Return the unrolled `call` of a tf_keras layer."""
    import tensorflow as tf

    def call(inputs: Any, mask: Any = None, training: Any = None, initial_state: Any = None, constants: Any = None):  # type: ignore[no-untyped-def]
        given, states, constants = keras_internals.loop_inputs(layer, inputs, initial_state, constants)
        if initial_state is None and given is inputs and not layer.stateful and _starts_from_zeros(layer):
            states = layer.get_initial_state(tf.zeros((1, *given.shape[1:]), given.dtype))  # constants
        kwargs = {"constants": constants} if constants else {}
        step = _cell(layer, training, kwargs)
        last, outputs, states = _loop(layer, step, given, states, _masks(_first(mask), blended))
        made = tf.stack(outputs, axis=1) if layer.return_sequences else last
        return [made, *states] if layer.return_state else made

    return call


def _starts_from_zeros(layer: Any) -> bool:
    """Return whether zero states of one sample can stand for all samples; custom cells may depend on the shape."""
    return type(layer).__module__.startswith("tf_keras.") and type(layer.cell).__module__.startswith("tf_keras.")


def _inner_loop(layer: Any, blended: bool) -> Call:
    """Return the unrolled `inner_loop` of a Keras 3 layer."""
    import tensorflow as tf

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        step = _cell(layer, training, {})
        last, outputs, states = _loop(layer, step, sequences, initial_state, _masks(_first(mask), blended))
        return last, tf.stack(outputs, axis=1), states

    return inner_loop


def _cell(layer: Any, training: Any, kwargs: dict[str, Any]) -> Call:
    import inspect

    if "training" in inspect.signature(layer.cell.call).parameters:
        kwargs = {**kwargs, "training": training}

    def step(values: Any, states: Any) -> tuple[Any, list[Any]]:
        output, states = layer.cell(values, states, **kwargs)
        return output, list(states) if isinstance(states, (list, tuple)) else [states]

    return step


def _loop(
    layer: Any, step: Call, inputs: Any, states: Any, masks: list[Mask] | None
) -> tuple[Any, list[Any], list[Any]]:
    """Return (last output, all outputs, last states) of a cell over axis 1; nothing changes where the mask is False."""
    import tensorflow as tf

    places = tf.unstack(inputs, axis=1)
    if layer.go_backwards:
        places, masks = places[::-1], masks and masks[::-1]
    outputs: list[Any] = []
    states = list(states)
    output = None
    for number, values in enumerate(places):
        made, after = step(values, states)
        if masks is None:
            output, states = made, after
        else:
            output = masks[number](made, output)
            known = tf.nest.flatten(states)
            kept = [
                masks[number](new, None if not number and _is_zero(old) else old)
                for new, old in zip(tf.nest.flatten(after), known, strict=True)
            ]
            states = tf.nest.pack_sequence_as(after, kept)
        outputs.append(output)
    if masks is not None and getattr(layer, "zero_output_for_mask", False):
        outputs = [keep(each, None) for keep, each in zip(masks, outputs, strict=True)]
    return outputs[-1], outputs, states


def _masks(mask: Any, blended: bool) -> list[Mask] | None:
    """Return, per step of a boolean mask (batch, steps), the function that chooses between new and old values."""
    import tensorflow as tf

    if mask is None:
        return None
    if not blended:
        return [functools.partial(_chosen, keep) for keep in tf.unstack(mask, axis=1)]
    # Both shares in one tensor, so that its range is always 0 to 1, whatever the samples mask.
    shares = tf.unstack(tf.where(mask[:, :, None], [1.0, 0.0], [0.0, 1.0]), axis=1)
    return [functools.partial(_blended, each) for each in shares]


def _chosen(keep: Any, new: Any, old: Any) -> Any:
    import tensorflow as tf

    # A constant instead of `zeros_like`, which has no int8 operator.
    return tf.where(_over(keep, new), new, tf.zeros((1, *new.shape[1:]), new.dtype) if old is None else old)


def _blended(shares: Any, new: Any, old: Any) -> Any:
    taken = new * _over(shares[:, :1], new)
    return taken if old is None else taken + old * _over(shares[:, 1:], new)


def _is_zero(state: Any) -> bool:
    import tensorflow as tf

    made = getattr(state, "op", None) if not tf.executing_eagerly() else None
    value = tf.get_static_value(made.inputs[1] if made is not None and made.type == "Fill" else state)
    return value is not None and not np.any(value)


def _over(each: Any, values: Any) -> Any:
    """Reshape one value per sample to the rank of `values`."""
    import tensorflow as tf

    return tf.reshape(each, (-1, *[1] * (len(values.shape) - 1)))


def _first(struct: Any) -> Any:
    """Return the first element of a list (those after it belong to initial states), or `struct` if it is not a list."""
    return struct[0] if isinstance(struct, list) else struct


def _flat(struct: Any) -> list[Any]:
    return list(struct) if isinstance(struct, (list, tuple)) else [struct]
