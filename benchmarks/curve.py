"""Accuracy against deflated bytes: deep compression at several sparsities and cluster counts.

    python benchmarks/curve.py --model resnet8_cifar10.h5 --data cifar10/

Runs recipes/deep_compression.py once per point, with that point's sparsity and number of clusters. Finished points
are kept in benchmarks/results/curve.json and skipped; delete the file to start over. Writes the table and the plot
(docs/curve.png).
"""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parent.parent
POINTS = ((0.5, 16), (0.6, 16), (0.6, 8), (0.7, 16))
KEPT = Path(__file__).parent / "results" / "curve.json"
# Known files of the same model on the same 10,000 images: (label, accuracy, deflated bytes).
REFERENCES = (("MLPerf Tiny int8", 0.8697, 81_298), ("TF-MOT by hand", 0.8725, 46_980))
FLOAT_ACCURACY = 0.8719


def run_point(model: str, data: str, sparsity: float, clusters: int) -> dict[str, Any]:
    """Run the recipe once in this process."""
    import tfopt

    recipe = runpy.run_path(str(ROOT / "recipes" / "deep_compression.py"))["recipe"]
    prune, cluster, quantize = recipe.stages
    stages = (
        dataclasses.replace(prune, final_sparsity=sparsity),
        dataclasses.replace(cluster, number_of_clusters=clusters),
        quantize,
    )
    started = time.perf_counter()
    result = tfopt.optimize(model, dataclasses.replace(recipe, stages=stages), data)
    last = result.report.rows[-1]
    return {
        "sparsity": sparsity,
        "clusters": clusters,
        "epochs": [stage.epochs for stage in stages],
        "accuracy": last.metrics["accuracy"],
        "unique": last.max_unique_weights,
        "bytes": last.bytes,
        "deflated": last.deflated_bytes,
        "latency_ms": last.latency_ms,
        "seconds": time.perf_counter() - started,
    }


def plot(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for clusters in sorted({point["clusters"] for point in points}):
        line = sorted((p for p in points if p["clusters"] == clusters), key=lambda p: p["deflated"])
        axes.plot(
            [p["deflated"] / 1000 for p in line],
            [100 * p["accuracy"] for p in line],
            "o-",
            label=f"{clusters} clusters",
        )
        for p in line:
            axes.annotate(
                f"{p['sparsity']:.0%}",
                (p["deflated"] / 1000, 100 * p["accuracy"]),
                (4, -10),
                textcoords="offset points",
                fontsize=8,
            )
    for label, accuracy, deflated in REFERENCES:
        axes.plot(deflated / 1000, 100 * accuracy, "k^")
        axes.annotate(
            label, (deflated / 1000, 100 * accuracy), (0, -13), textcoords="offset points", ha="right", fontsize=8
        )
    axes.axhline(100 * FLOAT_ACCURACY, color="gray", linestyle=":", label="float original, 292 kB")
    axes.set(
        xlabel="deflated size of the .tflite [kB]",
        ylabel="CIFAR-10 test accuracy [%]",
        title="ResNet-8: sparsity and clusters",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


@click.command(help=__doc__)
@click.option("--model", required=True)
@click.option("--data", required=True)
@click.option("--point", nargs=2, type=(float, int), hidden=True)
def main(model: str, data: str, point: tuple[float, int] | None) -> None:
    kept: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    if point:
        kept.append(run_point(model, data, *point))
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return
    for sparsity, clusters in POINTS:
        if not any((p["sparsity"], p["clusters"]) == (sparsity, clusters) for p in kept):
            # One process per point: the converter leaks memory, and a crash costs only one point.
            subprocess.run([sys.executable, *sys.argv, "--point", str(sparsity), str(clusters)], check=True)
    publish_curve(json.loads(KEPT.read_text(encoding="utf-8")), model, data)


def publish_curve(points: list[dict[str, Any]], model: str, data: str) -> None:
    from common import publish

    points = sorted(points, key=lambda p: -p["deflated"])
    plot(points, ROOT / "docs" / "curve.png")
    rows = [
        [
            f"{p['sparsity']:.0%}",
            str(p["clusters"]),
            f"{p['accuracy']:.2%}",
            str(p["unique"]),
            f"{p['bytes']:,}",
            f"{p['deflated']:,}",
            f"{p['latency_ms']:.3f}",
            f"{p['seconds']:.0f}",
        ]
        for p in points
    ]
    publish(
        "curve",
        "ResNet-8 on CIFAR-10: accuracy against deflated bytes",
        ["sparsity", "clusters", "accuracy", "different weights", "bytes", "deflated", "ms", "s"],
        rows,
        [
            f"python benchmarks/curve.py --model {Path(model).name} --data {Path(data).name}",
            f"recipes/deep_compression.py, epochs {points[0]['epochs']}, seed 0; accuracy of the exported int8 file on "
            "the 10,000 test images; latency of one image on one thread",
        ],
    )


if __name__ == "__main__":
    main()
