"""Measure the seconds to train a head on a frozen backbone: in `fit` of either Keras, and on features computed once.

    python benchmarks/feature_transfer_speed.py --source mobilenet.keras --data flowers/

All use the same photos, batch size and epochs; the time includes computing features but not reading photos. Writes
benchmarks/results/feature_transfer_speed.md.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EPOCHS, BATCH = (3, 10, 30), 64


def frozen_in_fit(package: Any, body: Any, data: Any, epochs: int) -> None:
    """Return the usual model: the backbone with trainable = False and a Dense layer after it."""
    body.trainable = False
    inputs = package.Input(data.input_shape)
    outputs = package.layers.Dense(data.num_classes, activation="softmax")(body(inputs, training=False))
    model = package.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.batches("train", BATCH, shuffle=True), epochs=epochs, verbose=0)


@click.command(help=__doc__)
@click.option("--source", required=True)
@click.option("--data", required=True)
@click.option("--preprocessing", default="symmetric", show_default=True)
def main(source: str, data: str, preprocessing: str) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import keras
    from common import publish

    import tfopt
    from tfopt import bridge
    from tfopt.base.keras_compat import tf_keras
    from tfopt.data.for_model import data_for

    model = tfopt.load_model(source)
    loaded = data_for(model, data, preprocessing=preprocessing)

    def cached(epochs: int) -> None:
        tfopt.transfer.FeatureTransfer(epochs=epochs, batch_size=BATCH).transferred(model, loaded, quiet=True)

    tf_package, body = tf_keras(), tfopt.transfer.feature_extractor(model)
    flat_body = bridge.to_tf_keras(body)
    ways: dict[str, Callable[[int], None]] = {
        "tfopt, features computed once": cached,
        "frozen backbone in fit, Keras 3": lambda epochs: frozen_in_fit(keras, body, loaded, epochs),
        "frozen backbone in fit, tf_keras": lambda epochs: frozen_in_fit(tf_package, flat_body, loaded, epochs),
    }
    seconds: dict[tuple[str, int], float] = {}
    for epochs in EPOCHS:
        for name, run in ways.items():
            started = time.perf_counter()
            run(epochs)
            seconds[name, epochs] = time.perf_counter() - started
            click.echo(f"{name}, {epochs} epochs: {seconds[name, epochs]:.1f} s", err=True)
    first = next(iter(ways))
    rows = [
        [name, *(f"{seconds[name, e]:.1f} ({seconds[name, e] / seconds[first, e]:.1f})" for e in EPOCHS)]
        for name in ways
    ]
    publish(
        "feature_transfer_speed",
        f"A linear head on {Path(source).stem}, {len(loaded.train):,} photos of {loaded.input_shape}",
        ["", *(f"{epochs} epochs, s (tfopt = 1)" for epochs in EPOCHS)],
        rows,
        [
            f"python benchmarks/feature_transfer_speed.py --source {Path(source).name} --data {Path(data).name}/",
            f"batch {BATCH}, one thread; tfopt's seconds hold taking the body out of the source, the features of "
            "training and validation photos, and putting the whole model together; the others' training alone",
        ],
    )


if __name__ == "__main__":
    main()
