"""Peak memory and throughput of many images: made-up photos of 224 x 224 in folders, and CIFAR-10's 60,000.

    python benchmarks/data_memory.py --cifar cifar10/

Each row is a process: it loads the folder and runs `optimize` with `PostTraining` on a small model; peaks are of the
resident memory above that of a process that has imported TensorFlow. Throughput: one epoch of shuffled batches of 32,
of images decoded before and whenever they are read, next to a tf.data pipeline that decodes the same files in parallel,
in interleaved rounds. Writes the table.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

COUNTS = (2_500, 10_000, 40_000)
SIDE, CLASSES, ROUNDS, BATCH = 224, 4, 3, 32


def write_photos(folder: Path, count: int) -> None:
    """Write smooth noise as JPEG: photos differ, and files have the size of photos."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"kind{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (14, 14, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(place / f"{number}.jpg", quality=90)


def net(side: int, channels: int, classes: int) -> Any:
    """Return a small model."""
    import keras

    layers = [keras.layers.Conv2D(8, 3, strides=4, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    last = keras.layers.Dense(classes, activation="softmax")
    return keras.Sequential([keras.Input((side, side, channels)), keras.layers.Rescaling(1 / 255), *layers, last])


def peak() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_memory(folder: str, side: int, classes: int) -> dict[str, float]:
    """Return peaks in bytes and seconds, in this process."""
    import tfopt

    model = net(side, 3, classes)
    model.predict(np.zeros((1, side, side, 3)), verbose=0)
    before, started = peak(), time.perf_counter()
    data = tfopt.load_data(folder)
    loaded, seconds = peak(), time.perf_counter() - started
    started = time.perf_counter()
    tfopt.optimize(model, tfopt.Recipe(stages=(tfopt.PostTraining(),), max_drop=None), data, quiet=True)
    return {
        "pixels": sum(part.inputs.nbytes for part in (data.train, data.validation, data.test)),
        "load": loaded - before,
        "optimize": peak() - before,
        "load_seconds": seconds,
        "optimize_seconds": time.perf_counter() - started,
    }


def measure_speed(folder: str) -> dict[str, float]:
    """Return images per second of tfopt's batches and of a tf.data pipeline on the same files."""
    import tensorflow as tf

    import tfopt

    data, lazy = tfopt.load_data(folder), tfopt.load_data(folder, cache=False)
    files = [str(file) for file in sorted(Path(folder).rglob("*.jpg"))][: len(data.train)]

    def decoded(file: Any) -> Any:
        return tf.cast(tf.io.decode_jpeg(tf.io.read_file(file), channels=3), tf.float32)

    plain = (
        tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
    )
    ours, again = (each.batches("train", BATCH, shuffle=True) for each in (data, lazy))
    theirs = plain.batch(BATCH).prefetch(tf.data.AUTOTUNE)

    def rate(batches: Any) -> float:
        started = time.perf_counter()
        count = sum(int((batch[0] if isinstance(batch, tuple) else batch).shape[0]) for batch in batches)
        return count / (time.perf_counter() - started)

    rounds = [(rate(ours), rate(again), rate(theirs)) for _ in range(ROUNDS)]
    return {
        "kept": statistics.median(kept for kept, _, _ in rounds),
        "again": statistics.median(decoded for _, decoded, _ in rounds),
        "plain": statistics.median(other for _, _, other in rounds),
        "ratio": statistics.median(kept / other for kept, _, other in rounds),
        "ratio_again": statistics.median(decoded / other for _, decoded, other in rounds),
    }


def in_process(function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Run a function of this file in a separate process and return its result."""
    call = f"import json, data_memory as d; print('\\n' + json.dumps(d.{function.__name__}(*{arguments!r})))"
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, check=True, cwd=here)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@click.command(help=__doc__)
@click.option("--cifar", help="CIFAR-10 as a folder of images.")
@click.option("--count", "counts", type=int, multiple=True, default=COUNTS, show_default=True)
def main(cifar: str | None, counts: tuple[int, ...]) -> None:
    rows, speed = [], dict.fromkeys(("kept", "again", "plain", "ratio", "ratio_again"), 0.0)
    for name, folder, side, classes in _folders(cifar, counts):
        found = in_process(measure_memory, str(folder), side, classes)
        pixels, load, whole = (found[key] / 2**20 for key in ("pixels", "load", "optimize"))
        seconds = [f"{found[key]:.0f}" for key in ("load_seconds", "optimize_seconds")]
        rows.append([name, f"{pixels:,.0f}", f"{load:,.0f}", f"{whole:,.0f}", f"{whole / pixels:.2f}x", *seconds])
        print(rows[-1], flush=True)
        if side == SIDE and folder.parent.name == f"tfopt_{counts[0]}":
            speed = in_process(measure_speed, str(folder))
    facts = [
        "python benchmarks/data_memory.py --cifar cifar10/",
        "peaks above a process that has imported TensorFlow and predicted one image; MiB",
        f"throughput, {counts[0]:,} photos, images/s, median of {ROUNDS}: tf.data that decodes {speed['plain']:,.0f}; "
        f"tfopt {speed['kept']:,.0f}, ratio {speed['ratio']:.2f}; with cache=False {speed['again']:,.0f}, ratio "
        f"{speed['ratio_again']:.2f}",
    ]
    header = ["images", "pixels, MiB", "load_data, MiB", "optimize, MiB", "of the pixels", "load, s", "optimize, s"]
    publish("data_memory", "Peak memory of many images", header, rows, facts)


def _folders(cifar: str | None, counts: tuple[int, ...]) -> Iterator[tuple[str, Path, int, int]]:
    if cifar:
        yield "CIFAR-10, 60,000 of 32 x 32", Path(cifar).resolve(), 32, 10
    for count in counts:
        root = Path(tempfile.gettempdir()) / f"tfopt_{count}"
        folder = root / "photos"
        write_photos(folder, count)
        yield f"{count:,} of {SIDE} x {SIDE}", folder, SIDE, CLASSES
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
