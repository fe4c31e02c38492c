"""Does MediaPipe's Image Classifier open the file of photos that tfopt makes, and answer what LiteRT does?

    python benchmarks/mediapipe_apps.py --source mobilenet.keras --photos flowers/ --python mediapipe-env/bin/python

A head on features is trained on the photos and exported as `tfopt run` does, in int8 (the default) and in float.
Install mediapipe in a separate environment (pip install mediapipe). Both get the same pixels of 100 test photos. Writes
benchmarks/results/mediapipe_apps.md.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

CHILD = Path(__file__).with_name("mediapipe_child.py")
PHOTO, COUNT, SEED = (96, 96), 100, 0


def by_litert(lite: Any, pixels: np.ndarray, data: Any) -> list[dict[str, float]]:
    """The scores of a bare interpreter by class name: fed with bytes, or with floats as `data` says."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=lite.data)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in pixels:
        x = image[None] if given["dtype"] == np.uint8 else data.preprocessing.apply(image[None])
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        scores = interpreter.get_tensor(made["index"])[0].astype(np.float64)
        if made["dtype"] != np.float32:
            scale, zero = made["quantization"]
            scores = (scores - zero) * scale
        answers.append(dict(zip(data.class_names, scores.tolist(), strict=True)))
    return answers


def by_mediapipe(python: Path, lite: Any, pixels: np.ndarray) -> tuple[str, list[dict[str, float]]]:
    with tempfile.TemporaryDirectory() as folder:
        model, images, out = (Path(folder, name) for name in ("model.tflite", "images.npz", "out.json"))
        model.write_bytes(lite.data)
        np.savez(images, x=pixels)
        subprocess.run([python, CHILD, model, images, out], check=True, stderr=subprocess.DEVNULL)
        found = json.loads(out.read_text())
        return found["version"], found["answers"]


@click.command(help=__doc__)
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--photos", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--python", type=click.Path(path_type=Path), required=True, help="Python with mediapipe.")
def main(source: Path, photos: Path, python: Path) -> None:
    import tfopt

    data = tfopt.load_data(photos, size=PHOTO, preprocessing="symmetric", seed=SEED)
    recipe = tfopt.Recipe(transfer=tfopt.transfer.FeatureTransfer(input_shape=(*PHOTO, 3)), stages=())
    result = tfopt.optimize(source, recipe.seeded(SEED), data, quiet=True)
    floats = tfopt.Export(weights="float32", activations="float32")
    files = {
        "int8 (default)": result.lite,
        "float32": tfopt.export_tflite(result.model, None, floats, representative_data=data),
    }
    pixels, rows, version = data.test.inputs[:COUNT], [], ""
    for name, lite in files.items():
        version, theirs = by_mediapipe(python, lite, pixels)
        ours = by_litert(lite, pixels, data)
        same = [max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in zip(ours, theirs, strict=True)]
        named = all(set(a) == set(b) for a, b in zip(ours, theirs, strict=True))
        apart = (
            max(abs(a[key] - b[key]) for a, b in zip(ours, theirs, strict=True) for key in a) if named else float("nan")
        )
        types = f"{lite.inputs[0].dtype} -> {lite.outputs[0].dtype}"
        rows.append(
            [name, types, f"{lite.size:,}", "yes" if named else "no", f"{sum(same)} of {len(same)}", f"{apart:.2g}"]
        )
    publish(
        "mediapipe_apps",
        "Files of photos in MediaPipe's Image Classifier",
        ["file", "input -> output", "bytes", "class names", "same class as LiteRT", "largest difference of a score"],
        rows,
        [
            f"{source.name}, a head on its features, {len(data.train):,} photos of {len(data.class_names or ())} "
            f"classes at {PHOTO[0]}x{PHOTO[1]}; the same pixels for both; seed {SEED}",
            f"mediapipe {version}; a score has steps of 1/256 in the int8 file",
        ],
    )


if __name__ == "__main__":
    main()
