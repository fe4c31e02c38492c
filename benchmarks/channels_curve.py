"""Accuracy against multiplications: ResNet-8 on CIFAR-10 with fewer channels, then int8.

    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher.keras
    python benchmarks/channels_curve.py --model resnet8_cifar10.h5 --data cifar10/ --teacher teacher.keras

Each point removes channels with `PruneChannels`, trains the small model with `FineTune` and quantizes it, all with the
teacher; epochs are chosen on validation images, which are split off the training images. The main point keeps the
channels that residual connections join, and runs with three seeds. Finished runs are kept in
benchmarks/results/channels_curve.json and skipped. The speed is that of the int8 file against an int8 file of the
original, made by post-training, in interleaved rounds. Writes the table.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import click
import numpy as np
from common import RESULTS, publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

KEPT = RESULTS / "channels_curve.json"
# Layers whose channels a residual connection joins, or the network begins with.
JOINED = ("conv2d", "conv2d_2", "conv2d_5", "conv2d_8")
MAIN = "inside blocks, 1.9x"
POINTS: dict[str, dict[str, Any]] = {
    MAIN: {"final_ratio": 0.53, "layers": tuple((name, False) for name in JOINED)},
    "everywhere, 1.5x": {"final_ratio": 0.67},
    "everywhere, 2.4x": {"final_ratio": 0.43},
    "everywhere, 3.5x": {"final_ratio": 0.29},
}
SEEDS = {MAIN: (0, 1, 2)}
ROUNDS, RUNS = 15, 100


def run(
    model: str, data: str, teacher: str, point: str, seed: int, epochs: tuple[int, int, int], work: str | None
) -> dict[str, Any]:
    """Run one point with one seed in this process."""
    import tfopt
    from tfopt.evaluate.timing import interleaved_times, speedup

    pruned, tuned, quantized = epochs
    recipe = tfopt.Recipe(
        name="channels_curve",
        stages=(
            tfopt.PruneChannels(epochs=pruned, **POINTS[point]),
            tfopt.FineTune(epochs=tuned),
            tfopt.Quantize(epochs=quantized, learning_rate=2e-4),
        ),
        distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(temperature=4.0),), views=12),
        training=tfopt.Training(seed=seed, batch_size=128, learning_rate=2e-3, horizontal_flip=True, shift=0.125),
        max_drop=None,
    )
    started, dataset = time.perf_counter(), tfopt.load_data(data)
    cache, checkpoint = (f"{work}/answers", f"{work}/checkpoint") if work else (None, None)
    result = tfopt.optimize(model, recipe, dataset, teacher=teacher, teacher_cache=cache, checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    export = tfopt.Export(weights="int8", activations="int8")
    original = tfopt.export_tflite(
        tfopt.load_model(model), KEPT.with_suffix(".tflite"), export, representative_data=dataset
    )
    KEPT.with_suffix(".tflite").unlink()
    samples = [dataset.test.x(slice(0, 1))] * 2
    times = interleaved_times([original, result.lite], samples, rounds=ROUNDS, runs=RUNS)
    first, *_, tuned_row, last = result.report.rows
    return {
        "accuracy": last.metrics["accuracy"],
        "float": tuned_row.metrics["accuracy"],
        "macs": (first.macs or 0) / (last.macs or 1),
        "bytes": last.bytes,
        "speed": speedup(*times),
        "speed_of_float": last.speedup,
        "epochs": epochs,
        "seconds": round(seconds),
    }


@click.command(help=__doc__)
@click.option("--model", required=True)
@click.option("--data", required=True)
@click.option("--teacher", required=True)
@click.option("--epochs", nargs=3, type=int, default=(8, 240, 15), show_default=True, help="Of the three stages.")
@click.option("--only", multiple=True, type=click.Choice(list(POINTS)), help="Only this point (can be repeated).")
@click.option("--work", help="Folder of the teacher's answers and checkpoints, from which the same command goes on.")
@click.option("--job", nargs=2, hidden=True, help="Internal: one point and seed, printed as JSON.")
def main(
    model: str,
    data: str,
    teacher: str,
    epochs: tuple[int, int, int],
    only: tuple[str, ...],
    work: str | None,
    job: tuple[str, str] | None,
) -> None:
    if job:
        click.echo("\n" + json.dumps(run(model, data, teacher, job[0], int(job[1]), epochs, work)))
        return
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for point in only or POINTS:
        for seed in SEEDS.get(point, (0,)):
            key = f"{point}, seed {seed}"
            if key not in kept:
                command = [sys.executable, __file__, "--model", model, "--data", data, "--teacher", teacher]
                command += ["--epochs", *map(str, epochs), "--job", point, str(seed)]
                command += ["--work", f"{work}/{list(POINTS).index(point)}-{seed}"] if work else []
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                kept[key] = json.loads(done.stdout.strip().splitlines()[-1])
                KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    _publish(kept)


def _publish(kept: dict[str, dict[str, Any]]) -> None:
    rows = []
    for point in POINTS:
        found = [row for key, row in kept.items() if key.startswith(f"{point}, seed")]
        if found:
            rows.append([point, str(len(found)), *(_spread(found, *column) for column in COLUMNS)])
    facts = [
        "python benchmarks/channels_curve.py --model resnet8_cifar10.h5 --data cifar10/ --teacher teacher.keras",
        "accuracy on all 10,000 test images, of the float model after FineTune and of the int8 file; original: 87.19 %",
        "speed: of the int8 file against that of an int8 file, and of the float file, of the original, interleaved",
        f"epochs of PruneChannels, FineTune and Quantize: {next(iter(kept.values()))['epochs']}",
    ]
    header = ["channels removed", "seeds", *(name for name, *_ in HEADER)]
    publish("channels_curve", "ResNet-8 on CIFAR-10: fewer channels, then int8", header, rows, facts)


COLUMNS: tuple[tuple[str, str, float], ...] = (
    ("macs", "{:.2f}x", 1),
    ("float", "{:.2f}", 100),
    ("accuracy", "{:.2f}", 100),
    ("bytes", "{:,.0f}", 1),
    ("speed", "{:.2f}x", 1),
    ("speed_of_float", "{:.2f}x", 1),
    ("seconds", "{:.0f}", 1),
)
HEADER = (("fewer MACs",), ("float, %",), ("int8, %",), ("bytes",), ("faster than int8",), ("than float",), ("s",))


def _spread(rows: list[dict[str, Any]], name: str, form: str, factor: float) -> str:
    values = np.array([row[name] for row in rows], float) * factor
    mean = form.format(values.mean())
    return f"{mean} ± {values.std(ddof=1):.2f}" if len(values) > 1 and values.std() > 0 else mean


if __name__ == "__main__":
    main()
