"""ResNet-8 through recipes/distill_compress.py: the most accurate int8 file, and the smallest that matches float.

    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher_0.keras
    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher_1.keras --seed 1
    python benchmarks/distill_compress.py --model resnet8_cifar10.h5 --data cifar10/ \
        --teacher teacher_0.keras --teacher teacher_1.keras

FineTune, the longest stage, is trained once. The accurate file is Quantize with 8 bits on top of it; the small one is
Quantize with 4 bits, fewer in the three layers that hold most of the weights, instead of Prune and Cluster: 2-bit
weights (two values and zero) deflate as well as many zeros do. Finished files are kept in saved_models/ and skipped;
delete the folder of one to start over.
Writes benchmarks/results/distill_compress.md.
"""

import dataclasses
import json
import os
import runpy
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parent.parent
SAVED = ROOT / "saved_models"
ACCURATE: dict[str, Any] = {"weight_bits": 8, "weight_steps": "max", "epochs": 12, "learning_rate": 1e-3}
SMALL: dict[str, Any] = {
    "weight_bits": 4, "layers": (("conv2d_4", 3), ("conv2d_6", 2), ("conv2d_7", 2)), "weight_steps": "learned",
    "epochs": 30, "learning_rate": 5e-4,
}  # fmt: skip


def recipes() -> list[Any]:
    """Return the common start of both files, and the stages that make each of them."""
    recipe = runpy.run_path(str(ROOT / "recipes" / "distill_compress.py"))["recipe"]
    fine_tune, *_, quantize = recipe.stages
    parts = {
        "distilled": fine_tune,
        "distilled_accurate": dataclasses.replace(quantize, **ACCURATE),
        "distilled_small": dataclasses.replace(quantize, **SMALL),
    }
    return [dataclasses.replace(recipe, name=name, stages=(stage,)) for name, stage in parts.items()]


def make(recipe: Any, model: str, data: Any, teachers: list[str]) -> None:
    import tfopt

    result = tfopt.optimize(
        model,
        recipe,
        data,
        teacher=teachers if len(teachers) > 1 else teachers[0],
        teacher_cache=SAVED / "teacher_answers",
        checkpoint=SAVED / f".{recipe.name}.checkpoint.npz",
    )
    result.save(SAVED / recipe.name)
    click.echo(str(result.report))


@click.command(help=__doc__)
@click.option("--model", required=True)
@click.option("--data", required=True)
@click.option("--teacher", required=True, multiple=True, help="Several are averaged.")
def main(model: str, data: str, teacher: tuple[str, ...]) -> None:
    from common import publish

    import tfopt
    from tfopt.tasks.metrics import wilson_interval

    SAVED.mkdir(exist_ok=True)
    loaded = tfopt.load_data(data)
    rows, facts = [], []
    for recipe in recipes():
        name = recipe.name
        if not (SAVED / name).exists():
            make(recipe, str(SAVED / "distilled" / "model.keras") if rows else model, loaded, list(teacher))
        report = json.loads((SAVED / name / "report.json").read_text(encoding="utf-8"))["rows"]
        if not rows:
            rows.append(_row("the float original", report[0], report[:1]))
            facts += [note for note in report[0]["notes"] if note.startswith("teacher ")]
            rows.append(_row("distilled, still float", report[1], report[1:]))
        else:
            rows.append(_row(name, report[-1], report[1:]))
            low, high = wilson_interval(round(report[-1]["metrics"]["accuracy"] * len(loaded.test)), len(loaded.test))
            facts.append(f"{name}: {low:.2%} to {high:.2%} (95 %, Wilson)")
        facts.append(f"{name}: {', '.join(f'{type(s).__name__} {s.epochs} epochs' for s in recipe.stages)}")
    publish(
        "distill_compress",
        "ResNet-8 on CIFAR-10, taught while it is compressed",
        ["file", "accuracy", "bytes", "deflated", "different weights", "ms", "s"],
        rows,
        [
            f"python benchmarks/distill_compress.py --model {Path(model).name} --data {Path(data).name}/ "
            + " ".join(f"--teacher {Path(name).name}" for name in teacher),
            "recipes/distill_compress.py in three runs: FineTune, and from its model Quantize with 8 bits, or with 4 "
            f"({', '.join(f'{bits} in {name}' for name, bits in SMALL['layers'])}); seed 0; accuracy of the file on "
            "all 10,000 test images; latency of one image on one thread; seconds of the run with everything measured",
            *facts,
        ],
    )


def _row(name: str, last: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    return [
        name,
        f"{last['metrics']['accuracy']:.2%}",
        f"{last['bytes']:,}",
        f"{last['deflated_bytes']:,}",
        str(last["max_unique_weights"]),
        f"{last['latency_ms']:.3f}",
        f"{sum(row['seconds'] for row in rows):.0f}",
    ]


if __name__ == "__main__":
    main()
