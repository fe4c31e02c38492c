"""Find values for which one int8 scale is not enough, and leave them in float.

They are inputs (raw features), concatenations, outputs (boxes in pixels next to scores) and what a BatchNormalization
scales channel by channel, if their channels differ in size by so much that the step of the common scale is coarse for
one. Training cannot bring back what such a step loses. A channel counts if rounding these values alone changes an
output of the model.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import unwrapped
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Ref, flatten, refs_in
from tfopt.graph.walk import walk
from tfopt.stages.quantize.activation_ranges import Batches, set_ranges
from tfopt.stages.quantize.plan import operation_of
from tfopt.stages.quantize.ranges import empty, has_range, set_range
from tfopt.stages.quantize.replaced_rounding import observe_activations, replace_rounding
from tfopt.stages.quantize.wrapper import gives_float

MOST_NOISE = 0.05
"""Largest noise of a channel, relative to its variance: half of what the proof of a file allows."""
STEPS = 255
NARROW_STEPS = 4.0
"""Least standard deviation of a channel that counts, in steps over its own range; as in the proof of a file."""
COMPARED = 2
"""Batches on which outputs are compared."""
_JOINING = ("concat", "concatenate", "concat_v2", "stack", "hstack", "vstack", "dstack")


@dataclass(frozen=True)
class Place:
    """A place where activations are rounded.

    Attributes:
        name: of the layer or the input.
        variables: of its quantizer.
        layer: that rounds; of an input, the one that TF-MOT adds.
    """

    name: str
    variables: dict[str, Any]
    layer: Any


def leave_unrounded(model: Any, batches: Batches) -> None:
    """Empty the ranges of values that one scale cannot hold.

    Args:
        model: with quantization wrappers and ranges; changed in place.
        batches: returns batches of inputs. Outputs are compared on the first `COMPARED`.
    """

    def few() -> Iterable[Any]:
        return itertools.islice(batches(), COMPARED)

    left: list[Place] = []
    while places := _coarse(model, few):
        want = _outputs(model, few, None)
        harmful = [place for place in places if _differ(want, _outputs(model, few, place.variables))]
        if not harmful:
            break
        left += harmful
        for place in left:
            empty(place.variables)
        set_ranges(model, batches)  # once more, since layers that compute in float do not round their weights
        for place in left:
            _wake(model, place, batches)
        for place in left:
            empty(place.variables)
    # Functions that Keras has traced before round as they did then.
    model.train_function = model.test_function = model.predict_function = None


def places_left_in_float(model: Any) -> dict[str, str]:
    """Return the places where a model from `apply` leaves values unrounded, and why."""
    return {
        place.name: "its channels are too unlike for one int8 scale"
        for place in _places(model)
        if not has_range(place.variables)
    }


def leaves_ends_in_float(model: Any) -> bool:
    """Return whether an input or output of the model is float, since its values are left unrounded."""
    return gives_float(*_input_layers(model), *_last_layers(model))


def _places(model: Any) -> list[Place]:
    """Return the places that may be left in float."""
    inputs = [
        Place(layer.name.removeprefix("quantize_"), layer.quantizer_vars, layer) for layer in _input_layers(model)
    ]
    chosen = {id(layer) for layer in (*_last_layers(model), *_before_scaling(model))}
    layers = [
        layer
        for layer in model.layers
        if getattr(layer, "after", None) and not layer.is_dormant and (id(layer) in chosen or _joins(unwrapped(layer)))
    ]
    return inputs + [Place(unwrapped(layer).name, point.variables, layer) for layer in layers for point in layer.after]


def _input_layers(model: Any) -> Iterator[Any]:
    return (layer for layer in model.layers if getattr(layer, "quantizer_vars", None))


def _joins(layer: Any) -> bool:
    return facts_of(layer).joins_ranges or operation_of(layer).rpartition(".")[2].strip("_") in _JOINING


def _before_scaling(model: Any) -> Iterator[Any]:
    """Yield the layers whose output goes to a BatchNormalization that is not folded, or to a Normalization."""
    for layer in model.layers:
        inner = unwrapped(layer)
        scales = facts_of(inner).family == "batch_norm" or type(inner).__name__ == "Normalization"
        if scales and getattr(layer, "after", None):
            yield from layer.sources


def _last_layers(model: Any) -> Iterator[Any]:
    """Yield the layers whose values are outputs of the model, perhaps in another shape."""
    graph = walk(model, keep_names=True)
    made_by = {ref: call for call in graph.calls for ref in call.outputs}
    seen: set[Ref] = set()

    def behind(ref: Ref) -> Iterator[Any]:
        call = made_by.get(ref)
        if call is None or ref in seen:
            return
        seen.add(ref)
        yield call.leaf.layer
        if not hasattr(call.leaf.layer, "points"):  # it only passes values on
            for before in refs_in(call.args):
                yield from behind(before)

    for ref in refs_in(graph.outputs_struct):
        yield from behind(ref)


def _wake(model: Any, place: Place, batches: Batches) -> None:
    """Let layers that shared the range of `place` round with their own."""
    sleeping = [layer for layer in model.layers if getattr(layer, "shares_with", "") == place.name]
    points = {id(point.variables): point.variables for layer in sleeping for point in layer.after}
    for seen in _channels(model, batches, list(points.values())):
        set_range(points[seen.key], float(min(seen.low.min(), 0)), float(max(seen.high.max(), 0)))


@dataclass
class _Channels:
    """Statistics of the channels (last axis) of the values at a place."""

    key: int
    low: Any = np.inf
    high: Any = -np.inf
    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        rows = _rows(values)
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        self.count += len(rows)
        self.total = self.total + rows.sum(axis=0)
        self.squares = self.squares + np.square(rows).sum(axis=0)

    @property
    def variances(self) -> np.ndarray:
        return np.asarray(np.maximum(self.squares / self.count - np.square(self.total / self.count), 0))

    def bad(self, errors: np.ndarray | float) -> bool:
        """Return whether squared errors of the channels are too large.

        The error of a single step over the range of the channel, including zero, always passes, and so does a channel
        that is nearly constant.
        """
        own = np.square((np.maximum(self.high, 0) - np.minimum(self.low, 0)) / STEPS)
        counts = self.variances > NARROW_STEPS**2 * own
        return bool(np.any(counts & (errors > MOST_NOISE * self.variances + own)))


def _coarse(model: Any, batches: Batches) -> list[Place]:
    """Return the places whose step is coarse for one of their channels."""
    places = {id(place.variables): place for place in _places(model) if has_range(place.variables)}
    found = []
    for seen in _channels(model, batches, [place.variables for place in places.values()]):
        variables = places[seen.key].variables
        step = float(variables["max_var"] - variables["min_var"]) / STEPS
        if seen.bad(step**2 / 12):
            found.append(places[seen.key])
    return found


def _channels(model: Any, batches: Batches, quantizers: Sequence[dict[str, Any]]) -> list[_Channels]:
    """Return statistics of the values at quantizers with these variables."""
    names = {id(variables["min_var"]): _Channels(id(variables)) for variables in quantizers}
    if not names:
        return []

    def see(variables: dict[str, Any], values: np.ndarray) -> None:
        if (seen := names.get(id(variables["min_var"]))) is not None:
            seen.add(values)

    with observe_activations(model, see):
        for batch in batches():
            model(batch, training=False)
    return [seen for seen in names.values() if seen.count]


def _outputs(model: Any, batches: Batches, only: dict[str, Any] | None) -> list[np.ndarray]:
    """Return the outputs of the model if only the quantizer with the variables `only` rounds."""
    import tensorflow as tf

    def look(values: Any, variables: dict[str, Any]) -> Any:
        if only is None or variables["min_var"] is not only["min_var"]:
            return values
        return tf.quantization.fake_quant_with_min_max_vars(values, only["min_var"], only["max_var"])

    with replace_rounding(model, look):
        parts = [[np.asarray(end) for end in flatten(model(batch, training=False))] for batch in batches()]
    return [np.concatenate(ends) for ends in zip(*parts, strict=True)]


def _differ(want: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> bool:
    for expected, found in zip(want, got, strict=True):
        seen = _Channels(0)
        seen.add(expected)
        if seen.bad(np.square(_rows(found) - _rows(expected)).mean(axis=0)):
            return True
    return False


def _rows(values: np.ndarray) -> np.ndarray:
    """Return (samples and positions, channels), float64."""
    return np.asarray(values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1), np.float64)
