"""Seconds that the proof of the outputs adds to an export; writes benchmarks/results/output_check.md.

    python benchmarks/output_check.py --images cifar10/test --model resnet8_cifar10.h5 raw

A model of a file gets the images, fed as the word behind it says; the others random numbers. Each model is exported
`--runs` times with 256 calibration samples, after one export that starts the child process. The conversion is all of
the export but the proof: bridge, tracing, conversion, calibration and the checks of the file. A proof that fails takes
longer, since it looks for the layer.
"""

import os
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import zoo
from common import publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SEED, SAMPLES = 0, 512
BUILT_IN = ("LSTM", "Transformer block", "U-Net", "Conv1D and relatives", "Nested three deep")


def photos(folder: Path, preprocessing: str, flat_model: Any) -> np.ndarray:
    """The pixels of a folder of images as the model gets them."""
    import tfopt

    data = tfopt.load_data(folder, size=flat_model.input_shape[1:3], preprocessing=preprocessing, limit=2 * SAMPLES)
    return data.preprocessing.apply(data.train.x()[:SAMPLES])


def inputs_of(flat_model: Any) -> Any:
    """Random inputs, float or small integers, as a list of one array for each input, or a bare array."""
    rng = np.random.default_rng(SEED)
    arrays = []
    for tensor in flat_model.inputs:
        shape = (SAMPLES, *(size or 32 for size in tensor.shape[1:]))
        floating = tensor.dtype.is_floating
        arrays.append(rng.normal(size=shape).astype("f") if floating else rng.integers(0, 50, shape).astype("int32"))
    return arrays[0] if len(arrays) == 1 else arrays


def measured(name: str, model: Any, runs: int, x: Any = None) -> list[list[str]]:
    """Rows of one model: its forms, with the median seconds of conversion and proof."""
    import tfopt
    from tfopt import bridge
    from tfopt.tflite.write import export

    x = inputs_of(bridge.to_tf_keras(model)) if x is None else x
    proof = export.prove
    spent: list[float] = []

    def timed(*args: Any, **options: Any) -> list[str]:
        started = time.perf_counter()
        try:
            return proof(*args, **options)
        finally:
            spent.append(time.perf_counter() - started)

    rows = []
    export.prove = timed
    try:
        for settings in (tfopt.Export(allow_drift=True), tfopt.Export(activations="float32", allow_drift=True)):
            whole = []
            for _ in range(runs + 1):
                started = time.perf_counter()
                export.build_file(model, settings, x)
                whole.append(time.perf_counter() - started)
            proving = float(np.median(spent[-runs:]))
            converting = float(np.median(whole[-runs:])) - proving
            share = f"{proving / converting:.1%}"
            rows.append([name, settings.activations, f"{converting:.2f}", f"{proving:.2f}", share])
            print(*rows[-1], flush=True)
    finally:
        export.prove = proof
    return rows


@click.command()
@click.option("--model", "files", nargs=2, multiple=True, help="A Keras file, and how its images are fed.")
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="A folder for these files.")
@click.option("--runs", default=3, show_default=True, help="Exports of each form; the median counts.")
def main(files: tuple[tuple[str, str], ...], images: Path | None, runs: int) -> None:
    """Measure and publish."""
    import keras

    from tfopt import bridge
    from tfopt.models import load_model

    rows = []
    for name in BUILT_IN:
        keras.utils.set_random_seed(SEED)
        model = zoo.ZOO[name](keras)
        zoo.randomize(model, SEED)
        rows += measured(name, model, runs)
    for file, preprocessing in files:
        model = load_model(file)
        if images is None:
            raise click.UsageError("--model needs --images.")
        rows += measured(Path(file).stem, model, runs, photos(images, preprocessing, bridge.to_tf_keras(model)))
    publish(
        "output_check",
        "Seconds that the proof of the outputs adds to an export",
        ["model", "activations", "conversion, s", "proof, s", "share"],
        rows,
        [
            f"python benchmarks/output_check.py {' '.join(f'--model {Path(f).name} {how}' for f, how in files)} "
            f"--images {images.name if images else None} --runs {runs}",
            f"{SAMPLES} inputs, 256 of them for the ranges; medians of {runs} runs; seed {SEED}; "
            f"{os.cpu_count()} CPU cores, shared with other work",
        ],
    )


if __name__ == "__main__":
    main()
