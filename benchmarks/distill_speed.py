"""Measure seconds per epoch: a student alone, with Keras 3's Distiller, and with tfopt, live and cached.

    python benchmarks/distill_speed.py

The student is MLPerf Tiny's ResNet-8; the teacher is that of cifar_teacher.py, wider and with an embedding of the
student's width (Keras 3's FeatureDistillation compares equal shapes only). Random images, interleaved epochs,
several rounds. Writes benchmarks/results/distill_speed.md.
"""

import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

IMAGES, BATCH = 6400, 64
FEATURES = ("pool", "embedding")  # student, teacher
TEACHER_WIDTHS = (64, 256, 256)  # about ten times the FLOPs of the student


def macs(model: Any) -> int:
    """Count the multiplications per sample in the convolutions and dense layers of a Keras 3 `model`."""
    total = 0
    for layer in model.layers:
        if (kernel := getattr(layer, "kernel", None)) is not None:
            total += math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
    return total


def teacher_with_embedding() -> Any:
    import keras
    from cifar_teacher import teacher_model

    base = teacher_model("float32", TEACHER_WIDTHS)
    x = keras.layers.Dense(64, name="embedding")(base.get_layer("features").output)
    return keras.Model(base.inputs, keras.layers.Dense(10, name="logits")(x), name="teacher")


def competitors(x: Any, y: Any) -> dict[str, Callable[[], Any]]:
    """Return functions that train one epoch, by name."""
    import keras
    from resnet8 import resnet8

    import tfopt
    from tfopt.base.keras_compat import tf_keras

    teacher = teacher_with_embedding()
    hint = tfopt.losses.FitNets(layers=(FEATURES,))
    distilled = keras.distillation

    def student(package: Any = keras) -> Any:
        return resnet8(package)

    def fitted(model: Any, package: Any = keras, **kwargs: Any) -> Callable[[], Any]:
        loss = package.losses.SparseCategoricalCrossentropy()
        model.compile(package.optimizers.Adam(1e-3), loss, **kwargs)
        return lambda: model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)

    def keras_distiller(features: bool) -> Any:
        losses = [distilled.LogitsDistillation(temperature=4.0)]
        if features:
            losses.append(
                distilled.FeatureDistillation("mse", teacher_layer_name=FEATURES[1], student_layer_name=FEATURES[0])
            )
        weights = [1.0] * len(losses)
        return distilled.Distiller(teacher, student(), losses, distillation_loss_weights=weights)

    def ours(cache: str, *, features: bool = False, package: Any = keras) -> Any:
        losses = (tfopt.losses.Hinton(), hint) if features else (tfopt.losses.Hinton(),)
        return tfopt.distill(student(package), teacher, tfopt.Distillation(losses=losses, cache=cache))

    tf_package = tf_keras()
    return {
        "student alone": fitted(student()),
        "Keras 3 Distiller, response": fitted(keras_distiller(False)),
        "tfopt live, response": fitted(ours("never")),
        "tfopt cached, response": fitted(ours("auto")),
        "Keras 3 Distiller, response and feature": fitted(keras_distiller(True)),
        "tfopt live, response and feature": fitted(ours("never", features=True)),
        "tfopt cached, response and feature": fitted(ours("auto", features=True)),
        "student alone, tf_keras": fitted(student(tf_package), tf_package),
        "tfopt cached, response, tf_keras": fitted(ours("auto", package=tf_package), tf_package),
    }


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
def main(rounds: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import keras
    import numpy as np
    from common import publish
    from resnet8 import resnet8

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (IMAGES, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, IMAGES)
    runs = competitors(x, y)
    first: dict[str, float] = {}
    for name, run in runs.items():  # build the graphs, and cache teacher outputs where that applies
        started = time.perf_counter()
        run()
        first[name] = time.perf_counter() - started
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    rows = []
    for name, seconds in times.items():
        base = times["student alone, tf_keras" if name.endswith("tf_keras") else "student alone"]
        ratio = statistics.median(own / alone for own, alone in zip(seconds, base, strict=True))
        rows.append([name, f"{statistics.median(seconds):.2f}", f"{ratio:.2f}", f"{first[name]:.1f}"])
    factor = macs(teacher_with_embedding()) / macs(resnet8(keras))
    publish(
        "distill_speed",
        f"One epoch of {IMAGES:,} images, ResNet-8 taught by a model of {factor:.1f} times its multiplications",
        ["", "s an epoch", "student alone = 1", "s of the first epoch"],
        rows,
        [
            "python benchmarks/distill_speed.py",
            f"median of {rounds} rounds, one epoch of each in turn; ratios within a round; batch {BATCH}, one thread; "
            "the first epoch builds graphs, and asks the teacher about all images where it is asked once",
        ],
    )


if __name__ == "__main__":
    main()
