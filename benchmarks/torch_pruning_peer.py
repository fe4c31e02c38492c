"""tfopt beside Torch-Pruning: ResNet-8 on CIFAR-10, the same weights, images, epochs and multiplications.

    python benchmarks/torch_pruning_peer.py --model resnet8_cifar10.h5 --data cifar10/ --python torchenv/bin/python

--python is one that has torch and torch-pruning. For each seed, tfopt prunes and trains first (no teacher); then
Torch-Pruning (group magnitude, isomorphic, multiples of 8) removes channels until the model has at most as many
multiplications, and trains for the same epochs. Both use Adam at 0.001 with a cosine schedule, batches of 128, mirrored
and shifted images, the L2 penalty of the model, and keep the epoch that is best on the same 2,000 validation images.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

CHILD = Path(__file__).with_name("torch_pruning_child.py")
LARGEST = 0.53  # the share of the multiplications that is left


def ours(model: str, data: Any, epochs: int, seed: int) -> dict[str, Any]:
    """Return accuracy and multiplications with tfopt."""
    import tfopt

    stage = tfopt.PruneChannels(epochs=epochs, final_ratio=LARGEST)
    training = tfopt.Training(seed=seed, batch_size=128, learning_rate=1e-3, horizontal_flip=True, shift=0.125)
    recipe = tfopt.Recipe(
        stages=(stage,),
        training=training,
        export=tfopt.Export(weights="float32", activations="float32"),
        max_drop=None,
    )
    started = time.perf_counter()
    rows = tfopt.optimize(model, recipe, data).report.rows
    seconds = time.perf_counter() - started
    return {"accuracy": rows[-1].metrics["accuracy"], "macs": rows[-1].macs, "of": rows[0].macs, "seconds": seconds}


def theirs(python: str, folder: Path, macs: int, epochs: int, seed: int) -> dict[str, Any]:
    """Return what the child found."""
    started, out = time.perf_counter(), folder / "out.json"
    command = [python, str(CHILD), str(folder / "data.npz"), str(folder / "weights.npz")]
    subprocess.run([*command, str(macs), str(epochs), str(seed), str(out)], check=True)
    return {**json.loads(out.read_text()), "seconds": time.perf_counter() - started}


def write_inputs(model: str, data: Any, folder: Path) -> None:
    """Write images (n, 3, 32, 32), uint8, labels, and the weights of the model by position."""
    import tfopt

    arrays: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        arrays[f"x_{name}"] = np.asarray(part.x(), np.uint8).transpose(0, 3, 1, 2)
        arrays[f"y_{name}"] = np.asarray(part.y(), np.int64)
    np.savez(folder / "data.npz", **arrays)
    weights: dict[str, Any] = {}
    counts = {"Conv2D": 0, "BatchNormalization": 0}
    for layer in tfopt.load_model(model).layers:
        kind = type(layer).__name__
        prefix = {"Conv2D": "conv", "BatchNormalization": "norm", "Dense": "dense"}.get(kind)
        if prefix:
            number = "" if prefix == "dense" else f"_{counts[kind]}"
            weights |= {f"{prefix}{number}_{index}": values for index, values in enumerate(layer.get_weights())}
            counts[kind] = counts.get(kind, 0) + 1
    np.savez(folder / "weights.npz", **weights)


@click.command(help=__doc__)
@click.option("--model", required=True)
@click.option("--data", "source", required=True)
@click.option("--python", required=True)
@click.option("--epochs", default=16, show_default=True)
@click.option("--seeds", default=3, show_default=True)
def main(model: str, source: str, python: str, epochs: int, seeds: int) -> None:
    import tfopt

    data = tfopt.load_data(source)
    runs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(model, data, folder)
        for seed in range(seeds):
            mine = ours(model, data, epochs, seed)
            runs.append((mine, theirs(python, folder, mine["macs"], epochs, seed)))
            click.echo(json.dumps(runs[-1]))
    rows = []
    for label, side in (("tfopt, PruneChannels", 0), (f"Torch-Pruning {runs[0][1]['version']}", 1)):
        found = [run[side] for run in runs]
        fewer = [run["of"] / run["macs"] if side == 0 else run["macs"] for run in found]
        scores = np.array([run["accuracy"] for run in found]) * 100
        spread = f" ± {scores.std(ddof=1):.2f}" if seeds > 1 else ""
        seconds = np.mean([run["seconds"] for run in found])
        rows.append([label, f"{np.mean(fewer):.2f}x", f"{scores.mean():.2f}{spread}", f"{seconds:.0f}"])
    facts = [
        "python benchmarks/torch_pruning_peer.py --model resnet8_cifar10.h5 --data cifar10/ --python ...",
        f"{seeds} seeds; {epochs} epochs; float accuracy on all 10,000 test images; the original has 87.19 %, in torch "
        f"{100 * runs[0][1]['before']:.2f} %",
        f"widths of Torch-Pruning: {runs[0][1]['widths']}; torch {runs[0][1]['torch']}",
    ]
    header = ["with", "fewer MACs", "accuracy, %", "s"]
    publish("torch_pruning_peer", "Channels of ResNet-8 on CIFAR-10, tfopt and Torch-Pruning", header, rows, facts)


if __name__ == "__main__":
    main()
