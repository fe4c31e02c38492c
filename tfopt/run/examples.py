"""Small models for the built-in digits, so that every recipe runs without any file."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.samples import Split

DIGITS_SHAPE = (8, 8, 1)
"""Of an image of the built-in digits."""


def digits_model(
    data: Dataset, *, width: float = 1.0, epochs: int = 20, seed: int = 0, callback: Any = None, name: str = "digits"
) -> Any:
    """Return a Keras 3 CNN for 8x8 digits, trained on `data` for `epochs`: about 26,000 * width**2 parameters."""
    import keras

    def wide(channels: int) -> int:
        return max(1, round(width * channels))

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(DIGITS_SHAPE),
            layers.Conv2D(wide(16), 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(wide(32), 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(wide(64), 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(wide(32), activation="relu"),
            layers.Dense(data.num_classes, activation="softmax"),
        ],
        name=name,
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = data.train.x(), data.train.y()
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[callback] if callback else None)
    return model


def with_classes(data: Dataset, names: Sequence[str]) -> Dataset:
    """Return only the samples of the classes `names`, renumbered in this order; `data` has sparse labels."""
    numbers = [(data.class_names or ()).index(name) for name in names]

    def part(split: Split) -> Split:
        chosen = np.isin(split.labels, numbers)
        labels = np.array([numbers.index(label) for label in split.labels[chosen]], split.labels.dtype)
        return Split(split.inputs[chosen], labels, split.preprocessing)

    return dataclasses.replace(
        data,
        train=part(data.train),
        validation=part(data.validation),
        test=part(data.test),
        class_names=tuple(names),
        num_classes=len(names),
    )
