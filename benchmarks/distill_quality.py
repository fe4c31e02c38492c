"""Compare the accuracy of ResNet-8 from scratch: on labels, with Keras 3's Distiller, and with each loss of tfopt.

    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher.keras
    python benchmarks/distill_quality.py --data cifar10/ --teacher teacher.keras

All use the same images, epochs and seeds; term weights are those of the papers. Finished runs are kept in
benchmarks/results/distill_quality.json and skipped; delete the file to start over. Each run uses one thread; --jobs
runs execute at a time.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

KEPT = Path(__file__).parent / "results" / "distill_quality.json"
BATCH, LEARNING_RATE = 64, 2e-3
FIELDS = (("x", "inputs"), ("y", "labels"))
# (student, teacher) layers: the outputs of residual blocks at the most similar positions.
MIDDLE, TOP, POOLED = ("stack_2", "block_16x16"), ("stack_3", "block_8x8"), ("pool", "features")


def plans() -> dict[str, Any]:
    """Return how each competitor trains, by name; None for labels alone, a dict for Keras 3's Distiller."""
    import tfopt

    def plan(*losses: Any, **kwargs: Any) -> Any:
        return tfopt.Distillation(losses=losses, **kwargs)

    return {
        "labels alone": None,
        "Keras 3 Distiller, as it comes": {},
        "Keras 3 Distiller, temperature 4": {"temperature": 4.0},
        "Hinton": plan(tfopt.losses.Hinton()),
        "DKD": plan(tfopt.losses.DKD()),
        "DIST": plan(tfopt.losses.DIST()),
        "StandardizedKD": plan(tfopt.losses.StandardizedKD()),
        "TeacherFree": plan(tfopt.losses.TeacherFree()),
        "FitNets": plan(tfopt.losses.FitNets(layers=(TOP,))),
        "FitNets, two stages, then Hinton": plan(
            tfopt.losses.Hinton(), tfopt.losses.FitNets(layers=(TOP,), two_stage=0.3)
        ),
        "AttentionTransfer": plan(tfopt.losses.AttentionTransfer(layers=(MIDDLE, TOP))),
        "SimilarityPreserving": plan(tfopt.losses.SimilarityPreserving(layers=(TOP,))),
        "RKD": plan(tfopt.losses.RKD(layers=(POOLED,))),
        "FSP": plan(tfopt.losses.FSP(layers=(MIDDLE, TOP), weight=0.1)),
        "PKT": plan(tfopt.losses.PKT(layers=(POOLED,))),
        "VID": plan(tfopt.losses.VID(layers=(TOP,))),
    }


def run_one(name: str, seed: int, data: str, teacher_file: str, images: int, epochs: int) -> dict[str, Any]:
    """Train one student in this process, after others, and measure it on all test images."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import keras
    import numpy as np
    from resnet8 import resnet8

    import tfopt
    from tfopt.tasks.metrics import accuracy

    keras.backend.clear_session()
    dataset = loaded(data)
    chosen = np.random.default_rng(seed).choice(len(dataset.train), images, replace=False)
    x, y = dataset.train.x(chosen), dataset.train.y(chosen)
    student, teacher = resnet8(keras, seed), keras.models.load_model(teacher_file)
    plan = plans()[name]
    learner = student
    if isinstance(plan, dict):
        softened = keras.distillation.LogitsDistillation(**plan)
        learner = keras.distillation.Distiller(teacher, student, softened)
    elif plan is not None:
        learner = tfopt.distill(student, teacher, plan)
    steps = epochs * -(-images // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy()
    learner.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)
    started = time.perf_counter()
    learner.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - started
    right = accuracy(student.predict(dataset.test.x(), batch_size=500, verbose=0), dataset.test.y())
    return {"name": name, "seed": seed, "accuracy": right, "seconds": seconds, "images": images, "epochs": epochs}


@functools.cache
def loaded(data: str) -> Any:
    import tfopt

    return tfopt.load_data(data)


def unpacked(data: str) -> Path:
    """Save `data` as one .npz, so processes need not read 60,000 files each."""
    import numpy as np

    import tfopt

    path = Path(__file__).resolve().parent.parent / "saved_models" / "distill_quality_data.npz"
    if not path.exists():
        loaded = tfopt.load_data(data)
        parts = {"train": loaded.train, "val": loaded.validation, "test": loaded.test}
        arrays = {f"{key}_{end}": getattr(part, field) for end, part in parts.items() for key, field in FIELDS}
        np.savez(path, **arrays)
    return path


def publish_table(kept: list[dict[str, Any]], data: str, arrays: Path, teacher: str) -> None:
    import keras
    from common import publish

    from tfopt.tasks.metrics import accuracy

    test = loaded(str(arrays)).test
    knows = accuracy(keras.models.load_model(teacher).predict(test.x(), batch_size=500, verbose=0), test.y())
    rows = []
    for name in plans():
        found = [run for run in kept if run["name"] == name]
        values = [100 * run["accuracy"] for run in found]
        spread = f"{min(values):.2f} to {max(values):.2f}"
        rows.append([name, f"{statistics.mean(values):.2f}", spread])
    first = kept[0]
    publish(
        "distill_quality",
        f"ResNet-8 from scratch on {first['images']:,} images of CIFAR-10, {first['epochs']} epochs",
        ["learns from", "% right, mean", "of the seeds"],
        rows,
        [
            f"python benchmarks/distill_quality.py --data {Path(data).name}/ --teacher {Path(teacher).name}",
            f"the teacher, taught on all training images, has {knows:.2%}",
            f"all 10,000 test images; seeds {sorted({run['seed'] for run in kept})}, which also choose the images; no "
            f"augmentation; Adam {LEARNING_RATE:g}, cosine, batch {BATCH}; weights of the terms as in the papers (FSP: "
            "0.1, its sums are large)",
        ],
    )


@click.command(help=__doc__)
@click.option("--data", required=True)
@click.option("--teacher", required=True)
@click.option("--images", default=2_500, show_default=True, help="Training images.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Number of seeds.")
@click.option("--jobs", default=2, show_default=True, help="Processes at a time.")
def main(data: str, teacher: str, images: int, epochs: int, seeds: int, jobs: int) -> None:
    arrays = unpacked(data)
    kept: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    done = {(run["name"], run["seed"]) for run in kept}
    wanted = [(name, seed) for seed in range(seeds) for name in plans() if (name, seed) not in done]
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=fresh) as pool:
        runs = [pool.submit(run_one, *run, str(arrays), teacher, images, epochs) for run in wanted]
        for finished in concurrent.futures.as_completed(runs):
            kept.append(finished.result())
            KEPT.parent.mkdir(exist_ok=True)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            click.echo(f"{len(kept)}: {kept[-1]}", err=True)
    publish_table(kept, data, arrays, teacher)


if __name__ == "__main__":
    main()
