"""Prove that a finished file computes the same as its model, or find the first layer that differs."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.files import write_atomically
from tfopt.base.keras_compat import unwrapped
from tfopt.bridge.check import runnable_batch
from tfopt.data import Dataset
from tfopt.errors import PromiseError, TfoptError
from tfopt.graph.types import Graph, refs_in
from tfopt.graph.variables import unchanged
from tfopt.graph.walk import walk
from tfopt.stages.quantize.trained import is_quantization_aware
from tfopt.tasks import task_of
from tfopt.tflite.prove.outputs import FLOAT16_ROUNDING, OutputProof, compare_output, most_noise, output_step
from tfopt.tflite.prove.sides import Samples, file_outputs, file_signals, keras_outputs
from tfopt.tflite.prove.signals import LEAST_DB
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT, Export
from tfopt.tflite.write.calibration import PROOF_SAMPLES, Calibration, argument_names, output_names
from tfopt.tflite.write.converter import convert

COMPARED = "compared with the model"
FEWEST_SAMPLES = 32
SAMPLES_NEAR_THE_LIMIT = 4 * PROOF_SAMPLES
"""Where the noise is above the limit by less than `NEAR`, and few samples leave open whether it really is."""
NEAR = 1.5
MOST_VALUES = 2**20
"""Most numbers in all samples together; for large inputs, fewer samples are used."""
MOST_PLACES = 2**15
"""Most positions of an output, such as the pixels of masks, in all samples together: so many prove enough."""
RANDOM_INPUTS = 0.5
"""Most noise on synthetic inputs. They prove little, so the limit is loose; a file above it does not work at all."""


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """The samples of a proof, a description of their origin, and whether they are real data."""

    samples: Samples
    words: str
    real: bool


def prove(
    model: Any,
    flat_model: Any,
    named: LiteModel,
    lite: LiteModel,
    settings: Export,
    data: Any,
    *,
    max_noise: float | None = None,
) -> list[str]:
    """Compare the outputs of `lite` with those of `model`; its first run is in a child process.

    Args:
        model: the caller's model.
        flat_model: the same as a flat tf_keras model, whose names the file has.
        named: the file with the names of inner tensors.
        lite: the file to write.
        settings: of the file; they determine the limits.
        data: the caller's samples, or None.
        max_noise: the limit, without any free errors; None for the usual one.

    Returns:
        Notes: the figures, and the differences that `allow_drift` accepted.

    Raises:
        PromiseError: an output exceeds a limit and `settings` do not allow it. Its `data` is the file.
        ModelError: LiteRT cannot run the file.
    """
    with unchanged(model):
        return _proven(model, flat_model, named, lite, settings, data, max_noise)


def _proven(
    model: Any, flat_model: Any, named: LiteModel, lite: LiteModel, settings: Export, data: Any, max_noise: float | None
) -> list[str]:
    first = PROOF_SAMPLES if settings.integer_only else PROOF_SAMPLES // 2  # others convert so much faster
    for count in (first, SAMPLES_NEAR_THE_LIMIT):
        evidence = _evidence(model, flat_model, settings, data, count)
        expected = keras_outputs(model, evidence.samples, flat_model.inputs[0].shape[0])
        proofs, limit = _compared(flat_model, lite, settings, data, evidence, expected, max_noise)
        noises = [noise for proof in proofs for noise in (proof.noise, proof.channel_noise)]
        if any(proof.failures for proof in proofs) or not any(limit < noise < NEAR * limit for noise in noises):
            break
    random = _random_outputs(model, flat_model, evidence, expected) if any(p.failures for p in proofs) else set()
    compared = [proof for proof in proofs if proof.name not in random]
    notes = [f"{COMPARED} on {evidence.words}: {'; '.join(map(str, compared))}"] if compared else []
    if random:
        notes.append(
            f"not compared, since the model itself gives other values in each run: {', '.join(sorted(random))}"
        )
    notes += [
        f"output '{proof.name}' has {proof.lost}: its type cannot tell its values apart; io=\"float32\" can"
        for proof in compared
        if proof.lost and not proof.failures
    ]
    bad = [proof for proof in compared if proof.failures]
    if not bad:
        return notes
    said = _in_words(bad, model, flat_model, named, evidence)
    if settings.allow_drift:
        return [*notes, f"allowed to differ from the model: {said}"]
    error = PromiseError(
        f"The file does not compute what the model '{model.name}' does, on {evidence.words}: {said}. "
        f"{_advice(settings, flat_model)}"
    )
    error.data = lite.data
    raise error


def _compared(
    flat_model: Any,
    lite: LiteModel,
    settings: Export,
    data: Any,
    evidence: _Evidence,
    expected: list[Any],
    max_noise: float | None,
) -> tuple[list[OutputProof], float]:
    """Return the comparison of each output with what is `expected`, and the limit of its noise."""
    found = file_outputs(lite, evidence.samples)
    most = most_noise([settings.weights]) if evidence.real else RANDOM_INPUTS
    limits: dict[str, Any] = {"most_noise": most if max_noise is None else max_noise}
    if max_noise is not None or not settings.integer_only:
        limits["free_steps"] = 0.0  # int8 cannot do better, floats can
    if settings.weights == "float16":
        limits["rounding"] = FLOAT16_ROUNDING
    ports = {port.name: port for port in lite.outputs}
    classes = isinstance(data, Dataset) and task_of(data).scores_classes
    proofs = [
        compare_output(
            name,
            want,
            found[name],
            classes=classes,
            step=output_step(lite, ports[name]),
            must_vary=settings.io in (None, "float32"),
            **limits,
        )
        for name, want in zip(output_names(flat_model), expected, strict=True)
    ]
    return proofs, limits["most_noise"]


def kept_beside(error: PromiseError, path: Path) -> PromiseError:
    """Write the file in `error` next to `path`, and return an error that names its place."""
    if error.data is None:
        return error
    place = path.with_name(f"{path.stem}.failed.tflite")
    write_atomically(place, error.data)
    kept = PromiseError(f"{error} The file is kept as {place}.")
    kept.data = error.data
    return kept


def _evidence(model: Any, flat_model: Any, settings: Export, data: Any, number: int) -> _Evidence:
    """Return at most `number` samples that the converter did not see, or saw if too few are left, or synthetic ones."""
    graph = walk(model)
    size = sum(int(np.prod([axis or 1 for axis in spec.shape[1:]])) for spec in graph.inputs)
    shapes = [ref.shape or () for ref in refs_in(graph.outputs_struct)]
    places = max((math.prod(axis or 1 for axis in shape[1:-1]) for shape in shapes), default=1)
    most = min(MOST_VALUES // max(size, 1), MOST_PLACES // max(places, 1))
    count = int(np.clip(most, FEWEST_SAMPLES, number))
    if data is None:
        arrays = _synthetic((model, flat_model), graph, count)
        samples = dict(zip(argument_names(flat_model), arrays, strict=True))
        return _Evidence(samples, f"{len(arrays[0])} synthetic inputs, as there are no data", real=False)
    seen = settings.calibration_samples if settings.integer_only else 0
    samples, held_out = Calibration(data, seen).bind(flat_model).for_proof(count)
    used = len(next(iter(samples.values())))
    words = f"{used} {'held-out samples' if held_out else 'samples, including the calibration samples'}"
    return _Evidence(samples, words, real=True)


def _synthetic(models: Sequence[Any], graph: Graph, count: int) -> list[Any]:
    """Return `count` random samples for each input, or the next multiple of the batch size that an input fixes."""
    parts = [runnable_batch(models, graph, count)[0]]
    while sum(len(part[0]) for part in parts) < count:
        parts.append(runnable_batch(models, graph, count, seed=len(parts))[0])
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _random_outputs(model: Any, flat_model: Any, evidence: _Evidence, expected: list[Any]) -> set[str]:
    """Return the outputs for which the model gives different values in a second run: nothing can be compared there."""
    again = keras_outputs(model, evidence.samples, flat_model.inputs[0].shape[0])
    pairs = zip(output_names(flat_model), expected, again, strict=True)
    return {
        name
        for name, one, two in pairs
        if not _equal(one, two) and compare_output(name, one, two, most_noise=1e-3).failures
    }


def _equal(one: np.ndarray, two: np.ndarray) -> bool:
    return np.array_equal(one, two, equal_nan=one.dtype.kind in "fc")


def _in_words(bad: list[OutputProof], model: Any, flat_model: Any, named: LiteModel, evidence: _Evidence) -> str:
    text = "; ".join(f"output '{proof.name}': {', '.join(proof.failures)}" for proof in bad)
    narrow = next((proof for proof in bad if proof.narrower_than_a_step), None)
    if narrow is not None and narrow.channel is not None:
        text += (
            f". One scale serves all of '{narrow.name}': its step is {narrow.step:.3g}, and channel {narrow.channel} "
            f"varies by {narrow.deviation:.3g}: make outputs of the parts that it is concatenated from"
        )
    return text + _first_bad_layer(flat_model, named, evidence)


def _first_bad_layer(flat_model: Any, named: LiteModel, evidence: _Evidence) -> str:
    """Return a sentence that names the first layer where the file differs, or "" if it cannot be found."""
    try:
        reference = convert(flat_model, FLOAT)
    except TfoptError:
        return ""
    layers = [unwrapped(layer).name for layer in flat_model.layers]
    signals = file_signals(reference, named, evidence.samples, layers, output_names(flat_model))
    if not signals:
        return ""
    first = next((signal for signal in signals if signal.sqnr < LEAST_DB), None)
    words, shown = ("first bad", first) if first else ("worst", min(signals, key=lambda signal: signal.sqnr))
    return f". The {words} layer: {shown.layers} ({shown.operator}), {shown.sqnr:.1f} dB signal to noise"


def _advice(settings: Export, flat_model: Any) -> str:
    """Return advice on what to do."""
    ways = []
    if settings.weights == "int4":
        ways.append('weights="int8" or tfopt.PostTraining(weight_bits=4)')
    if settings.activations == "int8" and settings.io not in (None, "float32"):
        ways.append('io="float32"')
    if settings.integer_only and not settings.mixed:
        ways.append("mixed=True")
    if settings.activations == "int8" and not is_quantization_aware(flat_model):
        ways.append('activations="int16"')
    if settings.integer_only:
        ways.append("more calibration samples, drawn at random")
    tried = f"Try {', or '.join(ways)}, or accept" if ways else "Replace the layer, or accept"
    return f"{tried} it with allow_drift=True (--allow-drift)."
