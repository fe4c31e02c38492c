"""The preprocessing of the source of a transfer: stated next to it, recognized, or measured."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base.annotations import annotations
from tfopt.data import Dataset, Preprocessing
from tfopt.data.beside import fed_as, image_preprocessing, stated_beside
from tfopt.data.preprocessing import NAMED
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Graph, is_layer, refs_in, replay
from tfopt.graph.walk import walk
from tfopt.models.sources import model_from
from tfopt.surgery.ending import feature_ref
from tfopt.tasks import task_of
from tfopt.transfer.architectures import known_architecture
from tfopt.transfer.features import feature_extractor
from tfopt.transfer.linear import can_fit, fit_linear_head, worse_by
from tfopt.transfer.scores import logme

LOOKED_AT = 500
"""Number of training images used to choose the preprocessing."""
CLEAR = 2.0
"""A preprocessing is clearly the best if its loss is lower by that many standard errors of the difference."""
IMAGENET = 1000
"""Classes of the pretrained models of `keras.applications`."""
ADVICE = "if it is wrong, state it: --preprocessing, or preprocessing= of load_data"
WELL_SCALED, SAME_SCALE = 3.0, 0.1  # see `_distance`


def choose_preprocessing(
    source: Any, data: Dataset, input_shape: Sequence[int] | None, layer: str | None = None
) -> tuple[Dataset, list[str]]:
    """Return `data` with the preprocessing that `source` was most likely trained with, and notes.

    In this order: what a `data.json` next to the model's file states; pixels as they are, if the model rescales or
    normalizes them itself; what the architectures of `keras.applications` were trained with. Otherwise the named kind
    of preprocessing whose features predict the labels of some training images best, by the cross-validated loss of a
    linear head; a near-tie is reported. It applies only to 8-bit images without preprocessing that `source` accepts;
    other data is unchanged. `layer` is where features are taken, as in `feature_extractor`.
    """
    given = image_preprocessing(data)
    if given is None or (given.scale, given.offset, given.order) != (1, 0, "rgb"):
        return data, []
    source = model_from(source)
    try:
        extractor = feature_extractor(source, layer=layer, input_shape=input_shape)
    except ModelError as error:
        return data, [f"preprocessing 'raw', because no features can show what the model was trained with: {error}"]
    taken = extractor.input_shape[1:]
    if len(taken) != 3 or any(size not in (None, own) for size, own in zip(taken, data.input_shape, strict=True)):
        return data, []
    graph = walk(source)
    if isinstance(stated := stated_beside(annotations(source).path), Preprocessing):
        return fed_as(data, stated), [f"preprocessing of data.json beside the model: {stated.describe()}"]
    images = data.train.inputs[data.train.spread(16)]
    if name := _rescaled_inside(graph, images):
        why = f"preprocessing '{name}': the model scales its inputs itself; {ADVICE}"
        return data.with_preprocessing(name), [why]
    known = known_architecture(graph)
    if known and data.input_shape[-1] != 3 and Preprocessing.named(known[1]).per_channel:
        known = None
    if known and _is_pretrained(graph):
        why = f"preprocessing '{known[1]}': the {known[0]} of keras.applications was trained with it; {ADVICE}"
        return data.with_preprocessing(known[1]), [why]
    return _measured(extractor, data, known)


def _rescaled_inside(graph: Graph, images: np.ndarray) -> str | None:
    """Return the named way of feeding `images` that the layers before the first kernel turn into numbers near 1.

    None if those layers leave the scale as it is.
    """
    calls, first = [], None
    for call in graph.calls:
        if is_layer(call.leaf.layer) and call.leaf.layer.weights and facts_of(call.leaf.layer).kernels:
            first = next(refs_in([call.args, call.kwargs]))
            break
        calls.append(call)
    if first is None or len(graph.inputs) != 1 or first not in {ref for call in calls for ref in call.outputs}:
        return None
    needed = Graph(graph.name, graph.inputs, calls, graph.leaves, graph.inputs_struct, first)
    wide = images if graph.inputs[0].shape[-1] == images.shape[-1] else images[..., :1]

    def reached(x: np.ndarray) -> np.ndarray:
        _, outputs = replay(needed, {graph.inputs[0].ref: x}, _run)
        return np.asarray(outputs, np.float64)

    black, white = (reached(np.full_like(wide, value, np.float32)) for value in (0, 255))
    if np.allclose([np.median(black), np.median(white)], [0, 255]):
        return None
    ways = [name for name in NAMED if not Preprocessing.named(name).per_channel]
    distances = {name: _distance(reached(Preprocessing.named(name).apply(wide))) for name in ways}
    best, second, *_ = sorted(distances, key=lambda name: distances[name])
    # Layers that undo any scale, such as a unit norm, give raw and scaled pixels alike.
    gaps = (distances[second] - distances[best], abs(distances["raw"] - distances["unit"]))
    distinct = min(gaps) > SAME_SCALE
    return best if distances[best] < WELL_SCALED and distinct else None


def _run(leaf: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if is_layer(leaf.layer) and keras_internals.takes_training(leaf.layer):
        kwargs = {**kwargs, "training": False}
    return leaf.layer(*args, **kwargs)


def _distance(values: np.ndarray) -> float:
    """Return how far `values` are from mean 0 and deviation 1: x/255 of a photo is at about 1.9."""
    return float(abs(values.mean()) + abs(np.log(values.std() + 1e-9)))


def _is_pretrained(graph: Graph) -> bool:
    """Return whether the outputs are the classes of ImageNet, or features."""
    outputs = list(refs_in([graph.outputs_struct]))
    if len(outputs) != 1 or (outputs[0].shape or (0,))[-1] == IMAGENET:
        return len(outputs) == 1
    try:
        return feature_ref(graph) == outputs[0]
    except ModelError:
        return False


@dataclasses.dataclass(frozen=True)
class _Probe:
    """How well the features predict labels: `losses` of each sample, if they could be cross-validated."""

    logme: float
    losses: np.ndarray | None
    quality: float | None

    @property
    def loss(self) -> float:
        return -self.logme if self.losses is None else float(self.losses.mean())

    def worse_by(self, best: "_Probe") -> float:
        """Return how much higher the loss is, in standard errors; 0 if it is not known."""
        return 0.0 if self.losses is None or best.losses is None else worse_by(self.losses, best.losses)

    def __str__(self) -> str:
        probe = "" if self.losses is None else f", probe {self.quality:.3f} with loss {self.loss:.3f}"
        return f"LogME {self.logme:.3f}{probe}"


def _measured(extractor: Any, data: Dataset, known: tuple[str, str] | None) -> tuple[Dataset, list[str]]:
    """Return `data` fed in the way whose features predict the labels best, and notes."""
    rows = np.random.default_rng(0).permutation(len(data.train))[:LOOKED_AT]
    named = {name: Preprocessing.named(name) for name in NAMED}
    candidates = {name: each for name, each in named.items() if data.input_shape[-1] == 3 or not each.per_channel}
    probes = {name: _probe(extractor, data.with_preprocessing(name), rows) for name in candidates}
    best = min(probes, key=lambda name: probes[name].loss)
    near = [name for name in probes if name != best and probes[name].worse_by(probes[best]) < CLEAR]
    highest = max(probes, key=lambda name: probes[name].logme)
    near += [highest] if highest not in (best, *near) else []
    said = "; ".join(f"{name}: {probe}" for name, probe in probes.items())
    chosen, why = best, "lowest cross-validated loss"
    if known and near and known[1] in (best, *near):
        chosen, why = known[1], f"as for the {known[0]} of keras.applications, whose structure the model has"
    notes = [f"preprocessing '{chosen}': {why}; linear heads on features of {len(rows)} images: {said}"]
    if near:
        rivals = ", ".join(name for name in (best, *near) if name != chosen)
        notes.append(f"preprocessing '{chosen}' is a guess, because it is nearly tied with {rivals}; {ADVICE}")
    return data.with_preprocessing(chosen), notes


def _probe(extractor: Any, data: Dataset, rows: np.ndarray) -> _Probe:
    labels, task = data.train.y(rows), task_of(data)
    features = extractor.predict(data.train.x(rows), verbose=0)
    score = logme(features, task.groups(labels) if task.has_classes else labels)
    if not can_fit(task, labels):
        return _Probe(score, None, None)
    found = fit_linear_head(features, labels, task)
    return _Probe(score, found.losses, found.quality)
