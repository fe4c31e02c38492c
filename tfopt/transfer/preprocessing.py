"""What the source of a transfer is fed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.preprocessing import NAMED
from tfopt.transfer.features import feature_extractor
from tfopt.transfer.scores import logme

# Training images that preprocessing is chosen by.
LOOKED_AT = 500


def choose_preprocessing(source: Any, data: Dataset, input_shape: Sequence[int] | None) -> tuple[Dataset, list[str]]:
    """`data` fed as `source` was most likely trained, and what to say about that.

    Of the named kinds of preprocessing, the one with the features that say most about the labels, by LogME of some
    training images. Only for images of 8 bits that are fed as they are and that `source` takes; nothing is changed for
    others.
    """
    if data.train.inputs.dtype != np.uint8 or len(data.input_shape) != 3 or data.preprocessing.scale != 1:
        return data, []
    extractor = feature_extractor(source, input_shape=input_shape)
    if any(size not in (None, given) for size, given in zip(extractor.input_shape[1:], data.input_shape, strict=True)):
        return data, []
    chosen = np.random.default_rng(0).permutation(len(data.train))[:LOOKED_AT]
    ways = {name: data.with_preprocessing(name) for name in NAMED}
    scores = {
        name: logme(extractor.predict(way.train.x(chosen), verbose=0), way.train.y(chosen))
        for name, way in ways.items()
    }
    best = max(scores, key=lambda name: scores[name])
    told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    return ways[best], [f"images are fed as '{best}', for the highest LogME of the features of {len(chosen)}: {told}"]
