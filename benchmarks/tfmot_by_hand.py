"""Prune, cluster and quantize a trained model twice, with TF-MOT by hand and with tfopt; same epochs, same seed.

    python benchmarks/tfmot_by_hand.py --model resnet8_cifar10.h5 --data cifar10/

Both train on the same batches with the same optimizer, learning rates and schedule. The jobs run one
after the other in separate processes, so neither inherits compiled graphs or memory; `--rounds` repeats the pair.
"""

import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SPARSITY, CLUSTERS, BATCH, SEED = 0.5, 16, 64, 0
RATES = (5e-4, 2e-4, 2e-4)


def with_tfopt(path: str, data: Any, epochs: tuple[int, int, int]) -> bytes:
    """Do the job as a user of tfopt would."""
    import tfopt

    recipe = tfopt.Recipe(
        stages=(
            tfopt.Prune(final_sparsity=SPARSITY, epochs=epochs[0], learning_rate=RATES[0]),
            tfopt.Cluster(number_of_clusters=CLUSTERS, epochs=epochs[1], learning_rate=RATES[1]),
            tfopt.Quantize(epochs=epochs[2], learning_rate=RATES[2]),
        ),
        training=tfopt.Training(batch_size=BATCH, seed=SEED, horizontal_flip=True, shift=0.125),
    )
    return tfopt.optimize(path, recipe, data).lite.data


def by_hand(path: str, data: Any, epochs: tuple[int, int, int]) -> bytes:
    """Do the job as a user of TF-MOT would."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        default_8bit_cluster_preserve_quantize_scheme as pcqat,
    )

    from tfopt.data import Augmentation

    tf_keras.utils.set_random_seed(SEED)
    model = tf_keras.models.load_model(path, compile=False)
    steps = data.steps(BATCH)
    augment = Augmentation(horizontal_flip=True, shift=0.125)

    def fit(model: Any, stage: int, callbacks: list[Any]) -> None:
        schedule = tf_keras.optimizers.schedules.CosineDecay(RATES[stage], epochs[stage] * steps)
        model.compile(tf_keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
        batches = data.batches("train", BATCH, shuffle=True, seed=SEED + stage, augment=augment)
        model.fit(
            batches,
            epochs=epochs[stage],
            validation_data=data.batches("validation", 256),
            callbacks=callbacks,
            verbose=2,
        )

    pruned = tfmot.sparsity.keras.prune_low_magnitude(
        model,
        pruning_schedule=tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=SPARSITY,
            begin_step=0,
            end_step=int(0.7 * epochs[0] * steps) // 10 * 10,
            frequency=10,
        ),
    )
    fit(pruned, 0, [tfmot.sparsity.keras.UpdatePruningStep()])
    sparse = tfmot.sparsity.keras.strip_pruning(pruned)
    clustered = tfmot.clustering.keras.cluster_weights(
        sparse,
        number_of_clusters=CLUSTERS,
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    fit(clustered, 1, [])
    stripped = tfmot.clustering.keras.strip_clustering(clustered)
    annotated = tfmot.quantization.keras.quantize_annotate_model(stripped)
    quantized = tfmot.quantization.keras.quantize_apply(
        annotated, pcqat.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    )
    fit(quantized, 2, [])
    converter = tf.lite.TFLiteConverter.from_keras_model(quantized)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


JOBS = {"TF-MOT by hand": by_hand, "tfopt": with_tfopt}


def lines_of_code(function: Any) -> int:
    """Count the lines that are neither empty nor docstring."""
    return sum(bool(line.strip()) for line in inspect.getsource(function).splitlines()) - 1


def timed_fits() -> list[float]:
    """Return a list that collects the seconds of every later tf_keras `fit` in this process."""
    from tfopt.base.keras_compat import tf_keras

    seconds: list[float] = []
    fit = tf_keras().Model.fit

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return fit(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - started)

    tf_keras().Model.fit = timed
    return seconds


def measure(job: str, model: str, source: str, epochs: tuple[int, int, int], out: Path) -> None:
    """Run one job in this process; write its numbers to `out` as JSON."""
    from tfopt.base.weight_statistics import sparsity, unique_weights
    from tfopt.data import load_data
    from tfopt.tasks.metrics import accuracy
    from tfopt.tflite.read import LiteModel

    data = load_data(source)
    fits = timed_fits()
    started = time.perf_counter()
    lite = LiteModel(JOBS[job](model, data, epochs))
    seconds = time.perf_counter() - started
    kernels = [weight.values for weight in lite.weights()]
    numbers = {
        "accuracy": accuracy(lite.predict(data.test.x()), data.test.y()),
        "sparsity": min(sparsity(kernel) for kernel in kernels),
        "unique": max(unique_weights(kernel) for kernel in kernels),
        "float tensors": len(lite.float_tensors()),
        "bytes": lite.size,
        "deflated": lite.deflated,
        "training": sum(fits),
        "seconds": seconds,
    }
    out.write_text(json.dumps(numbers), encoding="utf-8")


@click.command(help=__doc__)
@click.option("--model", required=True)
@click.option("--data", required=True)
@click.option("--epochs", nargs=3, type=int, default=(6, 2, 2), show_default=True, help="Prune, cluster, quantize.")
@click.option("--rounds", default=1, show_default=True)
@click.option("--job", type=click.Choice(list(JOBS)), hidden=True)
@click.option("--out", type=click.Path(path_type=Path), hidden=True)
def main(model: str, data: str, epochs: tuple[int, int, int], rounds: int, job: str | None, out: Path | None) -> None:
    if job and out:
        measure(job, model, data, epochs, out)
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in JOBS}
    for _ in range(rounds):
        for name in JOBS:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "numbers.json"
                subprocess.run([sys.executable, *sys.argv, "--job", name, "--out", str(file)], check=True)
                found[name].append(json.loads(file.read_text(encoding="utf-8")))
    report(found, model, data, epochs, rounds)


def report(found: dict[str, list[dict[str, float]]], model: str, data: str, epochs: Any, rounds: int) -> None:
    from common import publish

    names = list(next(iter(found.values()))[0])
    rows = []
    for job, runs in found.items():
        median = {name: statistics.median(run[name] for run in runs) for name in names}
        rows.append(
            [
                job,
                f"{median['accuracy']:.2%}",
                f"{median['sparsity']:.3f}",
                f"{median['unique']:.0f}",
                f"{median['float tensors']:.0f}",
                f"{median['bytes']:,.0f}",
                f"{median['deflated']:,.0f}",
                f"{median['training']:.0f}",
                f"{median['seconds']:.0f}",
                str(lines_of_code(JOBS[job])),
            ]
        )
    publish(
        "tfmot_by_hand",
        "Prune, cluster, quantize: TF-MOT by hand and tfopt",
        [
            "job",
            "accuracy",
            "sparsity (least)",
            "unique (most)",
            "float tensors",
            "bytes",
            "deflated",
            "training s",
            "all s",
            "lines",
        ],
        rows,
        [
            f"python benchmarks/tfmot_by_hand.py --model {Path(model).name} --data {Path(data).name} "
            f"--epochs {' '.join(map(str, epochs))} --rounds {rounds}",
            f"sparsity {SPARSITY}, {CLUSTERS} clusters, batch {BATCH}, seed {SEED}, learning rates {RATES} with cosine",
            "accuracy of the exported file on the full test set; lines are those of the two functions in the benchmark",
            "training s is what `fit` takes; all s adds conversion, and for tfopt the dry run before training and a "
            "float file of every step, measured on the full test set, which the job by hand leaves out",
        ],
    )


if __name__ == "__main__":
    main()
