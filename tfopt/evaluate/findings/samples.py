"""The test images with the worst answers, as thumbnails."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tfopt.base.finite_json import finite
from tfopt.base.words import metric_in_words
from tfopt.evaluate.findings.classes import class_numbers, probabilities
from tfopt.evaluate.findings.types import Sample
from tfopt.tasks.task import Task

MOST = 24
LARGEST_SIDE = 96
"""Of a thumbnail, in pixels."""
CHANNELS = {1: "L", 3: "RGB"}


def are_pictures(inputs: Any) -> bool:
    """Return whether `inputs` look like images: (N, height, width, 1 or 3) of numbers; several inputs do not."""
    if not isinstance(inputs, np.ndarray):
        return False
    return inputs.ndim == 4 and inputs.shape[-1] in CHANNELS and inputs.dtype.kind in "uif"


def worst_samples(
    numbers: np.ndarray,
    inputs: np.ndarray,
    outputs: np.ndarray,
    labels: np.ndarray,
    task: Task,
    names: Sequence[str] | None,
    *,
    logits: bool,
    anomalous: np.ndarray | None = None,
) -> tuple[list[Sample], str]:
    """Return the images with the worst answers, the worst first, and what their score is.

    Of anomalies, which a model should answer badly, those with the best answers follow.

    Args:
        numbers: places of the samples in the test data, (N,).
        inputs: images as they were read, (N, height, width, channels).
        outputs: of the file.
        labels: of the samples.
        task: decides what a bad answer is.
        names: of the classes; None numbers them.
        logits: whether outputs are logits rather than probabilities.
        anomalous: which samples are anomalies, (N,) of bool; None for a task without them.
    """
    scores, scored = _scores(outputs, labels, task, logits=logits)
    order = np.argsort(scores, kind="stable")
    worst = order[:MOST] if anomalous is None else _mistaken(order, anomalous)
    low, high = min(0.0, float(inputs.min())), float(inputs.max())  # of all, so that dark photos stay dark
    said = _Words(outputs, labels, task, names, logits=logits)
    samples = [
        Sample(
            number=int(numbers[at]),
            image=thumbnail(inputs[at], low, high),
            label=said.label(at) if anomalous is None else ("anomaly" if anomalous[at] else "normal"),
            predicted=said.answer(at),
            score=finite(round(float(abs(scores[at])), 4)),
        )
        for at in worst
    ]
    return samples, scored


def _mistaken(order: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Return the normal samples with the worst answers, and the anomalies with the best; `order` is worst first."""
    normal, strange = order[~anomalous[order]], order[anomalous[order]][::-1]
    half = MOST // 2
    return np.concatenate([normal[: max(half, MOST - len(strange))], strange[: max(half, MOST - len(normal))]])


def _scores(outputs: np.ndarray, labels: np.ndarray, task: Task, *, logits: bool) -> tuple[np.ndarray, str]:
    """Return a number for each sample that is lower for a worse answer, and what it is."""
    if task.has_classes:
        each = probabilities(outputs, logits=logits).reshape(len(outputs), -1)
        return each[np.arange(len(each)), class_numbers(labels, outputs)], "probability of the label's class"
    sign = -1 if task.smaller_is_better else 1
    return sign * task.metric_on_each(outputs, labels, logits=logits), metric_in_words(task.keras_metric)


class _Words:
    """Labels and answers in words; empty where they are maps, which a caption cannot say."""

    def __init__(
        self, outputs: np.ndarray, labels: np.ndarray, task: Task, names: Sequence[str] | None, *, logits: bool
    ) -> None:
        self._labels, self._outputs, self._task, self._names = labels, outputs, task, names
        if task.has_classes:
            each = probabilities(outputs, logits=logits).reshape(len(outputs), -1)
            self._truth, self._chosen = class_numbers(labels, outputs), each.argmax(axis=-1)

    def label(self, at: int) -> str:
        return self._name(self._truth[at]) if self._task.has_classes else _values(self._labels[at])

    def answer(self, at: int) -> str:
        if self._task.has_classes:
            return self._name(self._chosen[at])
        return _values(self._outputs[at])

    def _name(self, number: int) -> str:
        return self._names[number] if self._names and number < len(self._names) else str(number)


def _values(values: np.ndarray) -> str:
    each = np.asarray(values).ravel()
    return ", ".join(f"{value:.4g}" for value in each) if each.size <= 4 else ""


def thumbnail(image: np.ndarray, low: float, high: float) -> str:
    """Return an image as a data URI of a small WebP.

    Args:
        image: (height, width, 1 or 3).
        low: the value that becomes black.
        high: the value that becomes white.
    """
    pixels = np.clip((image.astype(np.float64) - low) / ((high - low) or 1) * 255, 0, 255).astype(np.uint8)
    shape = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    picture, content = Image.fromarray(shape, CHANNELS[pixels.shape[-1]]), io.BytesIO()
    small = max(picture.size) <= LARGEST_SIDE
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    picture.save(content, "WEBP", lossless=small and max(picture.size) <= 32, quality=75)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
