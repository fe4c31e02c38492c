"""Measure the seconds to convert a Keras 3 model to tf_keras and back, including self-checks.

    python benchmarks/bridge_speed.py

Full width, 224 x 224 inputs, 1,000 classes, random weights; median of several interleaved rounds. For
comparison, the seconds Keras itself needs to build the model, which a conversion does once or twice.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
from common import publish
from rich.progress import track

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

MODELS = ("MobileNetV2", "EfficientNetB0")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
def main(rounds: int) -> None:
    """Measure the conversion of MobileNetV2 and EfficientNetB0."""
    import keras

    from tfopt import bridge

    bridge.to_tf_keras(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))  # imports are not measured
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in MODELS}
    for name in track([*MODELS] * rounds, description="crossing"):
        built, model = seconds(lambda name=name: getattr(keras.applications, name)(weights=None))
        there, flat_model = seconds(lambda model=model: bridge.to_tf_keras(model))
        back, _ = seconds(lambda model=model, flat_model=flat_model: bridge.to_keras(flat_model, model))
        times[name].append((built, there, back))
    rows = [
        [name, *(f"{statistics.median(column):.1f}" for column in zip(*times[name], strict=True))] for name in MODELS
    ]
    publish(
        "bridge_speed",
        "Seconds to cross into tf_keras and back, checked",
        ["model", "Keras 3 builds it", "to tf_keras", "back to Keras 3"],
        rows,
        [f"python benchmarks/bridge_speed.py --rounds {rounds}", "224 x 224, 1,000 classes, random weights"],
    )


if __name__ == "__main__":
    main()
