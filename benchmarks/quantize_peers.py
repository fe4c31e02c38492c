"""Quantize ResNet-8 to 8, 4 and mixed bits with tfopt and with other tools.

    python benchmarks/quantize_peers.py --model resnet8_cifar10.h5 --data cifar10/ [--mct-python mct/bin/python]

Runs each peer as documented, with the same 256 calibration images; uses all 10,000 test images; interleaves latency
measurements. Rows of tfopt are recipes; those that train take minutes. Finished files are kept in
saved_models/quantize_peers and skipped; delete the folder to start over. Writes benchmarks/results/quantize_peers.md.
"""

import dataclasses
import json
import os
import runpy
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "saved_models" / "quantize_peers"
CALIBRATION = 256
TOOLKIT = (
    "Model Compression Toolkit 2.6.1 with TensorFlow 2.15.1 in its own environment; its files hold float weights that "
    "are rounded to the grid"
)


def converter(model: Any, images: Any, operators: str) -> bytes:
    """Apply TFLiteConverter's full-integer quantization, as documented."""
    import tensorflow as tf

    from tfopt import bridge

    maker = tf.lite.TFLiteConverter.from_keras_model(bridge.to_tf_keras(model))
    maker.optimizations = [tf.lite.Optimize.DEFAULT]
    maker.representative_dataset = lambda: ([image[None]] for image in images)
    maker.target_spec.supported_ops = [getattr(tf.lite.OpsSet, operators)]
    if operators == "TFLITE_BUILTINS_INT8":
        maker.inference_input_type = maker.inference_output_type = tf.int8
    return bytes(maker.convert())


def edge_quantizer(float_file: bytes, images: Any, recipe: str, **settings: Any) -> bytes:
    """Apply litert-quantizer to the float file; `recipe` is a function of its module `recipe`, or "w4a8"."""
    from litert_quantizer import quantizer, recipe_manager
    from litert_quantizer import recipe as recipes
    from litert_quantizer.qtyping import TFLOperationName

    if recipe == "w4a8":
        rules = recipe_manager.RecipeManager()
        rules.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 8, 8)
        for operator in (TFLOperationName.CONV_2D, TFLOperationName.FULLY_CONNECTED):
            rules.add_static_config(".*", operator, 8, 4)
        made = quantizer.Quantizer(float_file, rules.get_quantization_recipe())
    else:
        made = quantizer.Quantizer(float_file, getattr(recipes, recipe)(**settings))
    ranges = None
    if made.need_calibration:
        from tfopt.tflite.read import LiteModel

        (port,) = LiteModel(float_file).inputs
        ranges = made.calibrate({"serving_default": [{port.name: image[None]} for image in images]})
    return bytes(made.quantize(ranges).quantized_model)


def peers(model: Any, data: Any, images: Any) -> dict[str, Callable[[], bytes]]:
    """Return the functions that make the files, by name."""
    from tfopt.tflite.settings import Export
    from tfopt.tflite.write.export import build_file

    float_file = build_file(model, Export(weights="float32", activations="float32", compact=False)).data

    def tfopt_file(recipe: Any) -> bytes:
        import tfopt

        result = tfopt.optimize(model, recipe, data)
        click.echo(str(result.report))
        return result.lite.data

    def recipe(name: str, **stage: Any) -> Any:
        found = runpy.run_path(str(ROOT / "recipes" / f"{name}.py"))["recipe"]
        stages = (*found.stages[:-1], dataclasses.replace(found.stages[-1], **stage))
        return dataclasses.replace(found, stages=stages)

    half = LiteSize(model).half_of_int8()
    return {
        "float": lambda: float_file,
        "TFLiteConverter int8": lambda: converter(model, images, "TFLITE_BUILTINS_INT8"),
        "TFLiteConverter 16x8": lambda: converter(
            model, images, "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
        ),
        "litert-quantizer static 8": lambda: edge_quantizer(float_file, images, "static_wi8_ai8"),
        "litert-quantizer dynamic 8": lambda: edge_quantizer(float_file, images, "dynamic_wi8_afp32"),
        "litert-quantizer W4A8": lambda: edge_quantizer(float_file, images, "w4a8"),
        "litert-quantizer weights 4, min-max": lambda: edge_quantizer(float_file, images, "weight_only_wi4_afp32"),
        "litert-quantizer weights 4, OCTAV": lambda: edge_quantizer(
            float_file, images, "weight_only_wi4_afp32", algorithm_key="OCTAV"
        ),
        "tfopt int8, post-training": lambda: tfopt_file(recipe("post_training", weight_bits=8)),
        "tfopt int8, post-training, to nearest": lambda: tfopt_file(
            recipe("post_training", weight_bits=8, rounding="nearest")
        ),
        "tfopt int8, post-training, to nearest, new statistics": lambda: tfopt_file(
            recipe("post_training", weight_bits=8, rounding="nearest", batchnorm_statistics=True)
        ),
        "tfopt W4A8, post-training": lambda: tfopt_file(recipe("post_training")),
        "tfopt W4A8, post-training, new statistics": lambda: tfopt_file(
            recipe("post_training", batchnorm_statistics=True)
        ),
        "tfopt mixed, post-training, half the bytes": lambda: tfopt_file(recipe("post_training", max_bytes=half)),
        "tfopt W4A8, recipes/low_bit.py": lambda: tfopt_file(recipe("low_bit")),
        "tfopt mixed, trained, half the bytes": lambda: tfopt_file(
            recipe("mixed_precision", max_drop=None, max_bytes=half)
        ),
    }


class LiteSize:
    """Sizes of a model's 8-bit files."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def half_of_int8(self) -> int:
        """Return the size of tfopt's int8 file with weights of half the bytes."""
        import numpy as np

        import tfopt

        noise = np.random.default_rng(0).random((8, *self.model.inputs[0].shape[1:])).astype("float32")
        lite = tfopt.export_tflite(self.model, representative_data=noise)
        # Scales per channel, class names and buffer alignment add to the weights.
        return lite.size - sum(weight.tensor.bytes for weight in lite.weights()) // 2 + 512


def keras_own(file: str, data: Any) -> tuple[float, float]:
    """Return (accuracy, seconds) of Keras 3's model.quantize("int8") of a model file, which makes no .tflite."""
    import keras

    from tfopt.tasks.metrics import accuracy

    model = keras.models.load_model(file, compile=False)
    started = time.perf_counter()
    model.quantize("int8")
    seconds = time.perf_counter() - started
    return accuracy(model.predict(data.test.x(), batch_size=500, verbose=0), data.test.y()), seconds


def toolkit(python: str, model: str, images: Any, data: Any) -> list[list[str]]:
    """Return the rows of Model Compression Toolkit; see mct_peer.py."""
    import numpy as np

    from tfopt.tasks.metrics import accuracy
    from tfopt.tflite.read import LiteModel

    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "samples.npz", calibration=images, test=data.test.x())
        script = str(ROOT / "benchmarks" / "mct_peer.py")
        done = subprocess.run(
            [python, script, model, str(Path(folder) / "samples.npz"), folder], capture_output=True, text=True
        )
        if done.returncode:
            raise click.ClickException(f"{python} {script} failed: {done.stderr[-500:]}")
        said = json.loads(done.stdout.splitlines()[-1])
        rows = []
        for name, facts in said.items():
            outputs, file = Path(folder) / f"{name}.npy", Path(folder) / f"{name}.tflite"
            right = f"{accuracy(np.load(outputs), data.test.y()):.2%}" if outputs.exists() else "-"
            size, deflated = "-", "-"
            if file.exists():
                lite = LiteModel(file)
                size, deflated = f"{lite.size:,}", f"{lite.deflated:,}"
            seconds = f"{facts['seconds']:.0f}" if "seconds" in facts else "-"
            rows.append([f"Model Compression Toolkit, {name}", right, size, deflated, "-", "-", seconds])
            if "failed" in facts:
                click.echo(f"Model Compression Toolkit, {name}: {facts['failed']}", err=True)
        return rows


def made(name: str, make: Callable[[], bytes]) -> tuple[Path, float]:
    """Return a peer's file and the seconds it took, from an earlier run if there is one."""
    path = KEPT / f"{''.join(c if c.isalnum() else '_' for c in name)}.tflite"
    times = path.with_suffix(".json")
    if not times.exists():
        click.echo(f"making: {name}", err=True)
        started = time.perf_counter()
        data = make()
        seconds = time.perf_counter() - started
        path.write_bytes(data)
        times.write_text(json.dumps(seconds), encoding="utf-8")
    return path, json.loads(times.read_text(encoding="utf-8"))


@click.command(help=__doc__)
@click.option("--model", required=True)
@click.option("--data", required=True)
@click.option("--mct-python", help="The Python of an environment with Model Compression Toolkit.")
@click.option("--only", multiple=True, help="Only peers whose name has this in it.")
@click.option("--make-only", is_flag=True, help="Make the files, measure nothing.")
def main(model: str, data: str, mct_python: str | None, only: tuple[str, ...], make_only: bool) -> None:
    from common import publish

    import tfopt
    from tfopt.evaluate.bench import benchmark_files
    from tfopt.tflite.read import LiteModel

    KEPT.mkdir(parents=True, exist_ok=True)
    dataset, loaded = tfopt.load_data(data), tfopt.load_model(model)
    images = dataset.representative(CALIBRATION)
    wanted = {
        name: make
        for name, make in peers(loaded, dataset, images).items()
        if not only or any(part in name for part in only)
    }
    files = {name: made(name, make) for name, make in wanted.items()}
    if make_only:
        return
    measured = benchmark_files([path for path, _ in files.values()], dataset)
    rows = []
    for (name, (path, seconds)), row in zip(files.items(), measured, strict=True):
        kinds = "/".join(sorted({weight.tensor.dtype for weight in LiteModel(path).weights()}))
        right = row.metrics["accuracy"]
        cells = [name, f"{right:.2%}", f"{row.bytes:,}", f"{row.deflated_bytes:,}", kinds]
        rows.append([*cells, f"{row.median_ms:.3f}", f"{seconds:.0f}"])
    if not only:
        right, seconds = keras_own(model, dataset)
        rows.append(['Keras 3, model.quantize("int8"), no file', f"{right:.2%}", "-", "-", "-", "-", f"{seconds:.0f}"])
    if mct_python:
        rows += toolkit(mct_python, model, images, dataset)
    publish(
        "quantize_peers",
        f"ResNet-8 quantized, {len(dataset.test):,} CIFAR-10 test images",
        ["by", "accuracy", "bytes", "deflated", "weights", "ms", "s to make"],
        rows,
        [
            f"python benchmarks/quantize_peers.py --model {Path(model).name} --data {Path(data).name}/"
            + (" --mct-python mct/bin/python" if mct_python else "")
            + "".join(f" --only '{part}'" for part in only),
            f"{CALIBRATION} calibration images (tfopt: as the recipes say); new statistics: batchnorm_statistics=True; "
            "latency of one image on one thread, files in turn; seconds with everything that the tool does",
            *([TOOLKIT] if mct_python else []),
        ],
    )


if __name__ == "__main__":
    main()
