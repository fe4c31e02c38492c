"""Measure seconds per epoch of a Keras 3 model: in Keras 3's `fit`, and trained by tfopt as a flat tf_keras model.

    python benchmarks/fit_speed.py

The rounds are interleaved (A B C A B C ...); the table gives medians and the ratio to Keras 3's default.
Each candidate's first epoch, which traces and compiles, is not counted.
"""

import os
import statistics
import time
from typing import Any

import click
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def resnet8() -> Any:
    """Return MLPerf Tiny's ResNet-8 for 32x32x3 images, as a Keras 3 model."""
    import keras

    layers = keras.layers

    def conv(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        return layers.Conv2D(filters, size, strides, padding="same")(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs, 16, 3)))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(layers.BatchNormalization()(conv(x, filters, 3, strides)))
        y = layers.BatchNormalization()(conv(y, filters, 3))
        shortcut = x if strides == 1 else conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet8")


@click.command(help=__doc__)
@click.option("--images", default=6400, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(images: int, batch: int, rounds: int) -> None:
    from common import publish

    from tfopt import bridge

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (images, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, images)
    settings: dict[str, Any] = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}
    default, plain = resnet8(), resnet8()
    default.compile(**settings)
    plain.compile(**settings, jit_compile=False)
    candidates = {
        "Keras 3 fit": default,
        "Keras 3 fit, jit_compile=False": plain,
        "tfopt (flat tf_keras model)": bridge.to_tf_keras(default),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for model in candidates.values():
        model.fit(x, y, batch_size=batch, verbose=0)
    for _ in range(rounds):
        for name, model in candidates.items():
            started = time.perf_counter()
            model.fit(x, y, batch_size=batch, verbose=0)
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["Keras 3 fit"])
    rows = [
        [
            name,
            f"{statistics.median(runs):.2f}",
            f"{min(runs):.2f} to {max(runs):.2f}",
            f"{base / statistics.median(runs):.2f}x",
        ]
        for name, runs in seconds.items()
    ]
    publish(
        "fit_speed",
        "Seconds per epoch of ResNet-8",
        ["candidate", "median s", "range", "speed"],
        rows,
        [
            f"python benchmarks/fit_speed.py --images {images} --batch {batch} --rounds {rounds}",
            f"{os.cpu_count()} CPU cores, random images, seed 0",
        ],
    )


if __name__ == "__main__":
    main()
