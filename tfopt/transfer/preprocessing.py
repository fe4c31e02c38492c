"""The preprocessing of the source of a transfer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.preprocessing import NAMED
from tfopt.transfer.features import feature_extractor
from tfopt.transfer.scores import logme

# Number of training images used to choose the preprocessing.
LOOKED_AT = 500


def choose_preprocessing(source: Any, data: Dataset, input_shape: Sequence[int] | None) -> tuple[Dataset, list[str]]:
    """Return `data` with the preprocessing that `source` was most likely trained with, and notes.

    The choice among the named kinds of preprocessing is the one whose features have the highest LogME on some training
    images. It applies only to 8-bit images without preprocessing that `source` accepts; other data is unchanged.
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
    return ways[best], [
        f"preprocessing '{best}' gives the features with the highest LogME on {len(chosen)} images: {told}"
    ]
