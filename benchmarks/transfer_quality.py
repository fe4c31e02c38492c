"""Classify flowers with an ImageNet MobileNet: linear head, fine-tuned, from scratch, then pruned and int8 by QAT.

    python benchmarks/transfer_quality.py --source mobilenet.keras --hub mobilenet_feature_vector/ --data flowers/

The recipe is recipes/feature_transfer.py; "from scratch" uses the same architecture, data, augmentation and epochs. A
fifth of the photos is held out as the test set. Writes benchmarks/results/transfer_quality.md.
"""

import dataclasses
import os
import runpy
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "feature_transfer.py"


@click.command(help=__doc__)
@click.option("--source", required=True)
@click.option("--hub", required=True, help="The same model as a SavedModel without its head.")
@click.option("--data", required=True)
def main(source: str, hub: str, data: str) -> None:
    from common import publish

    import tfopt
    from tfopt.data.for_model import data_for
    from tfopt.tasks.metrics import wilson_interval
    from tfopt.transfer.preprocessing import choose_preprocessing

    recipe = runpy.run_path(str(RECIPE))["recipe"]
    model = tfopt.load_model(source)
    photos = data_for(model, data)
    facts, rows = [], []

    def run(what: Any, recipe: Any, names: dict[str, str]) -> None:
        fed, said = choose_preprocessing(what, photos, None)
        result = tfopt.optimize(what, recipe, fed)
        facts.extend(said)
        for row in result.report.rows:
            if row.step in names:
                right = round(row.metrics["accuracy"] * len(photos.test))
                low, high = wilson_interval(right, len(photos.test))
                rows.append(
                    [names[row.step], f"{row.metrics['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row.bytes:,}",
                     f"{row.deflated_bytes:,}", f"{row.latency_ms:.2f}", f"{row.seconds:.0f}"]
                )  # fmt: skip
        click.echo(str(result.report), err=True)

    steps = {
        "FeatureTransfer": "linear head on kept features",
        "FineTune": "fine-tuned",
        "Prune": "half of the weights pruned",
        "exported int8": "int8 by quantization-aware training",
    }
    run(model, recipe, steps)
    from_hub = {name: f"{told}, from the SavedModel" for name, told in steps.items() if name != "Prune"}
    run(hub, recipe, from_hub)
    tuned = recipe.stages[0]
    scratch = dataclasses.replace(recipe, transfer=tfopt.transfer.StructureTransfer(), stages=(tuned,))
    run(model, scratch, {"FineTune": f"from scratch, {tuned.epochs} epochs"})
    facts += [
        f"python benchmarks/transfer_quality.py --source {Path(source).name} --hub {Path(hub).name}/ --data "
        f"{Path(data).name}/",
        f"epochs: head {recipe.transfer.epochs} on features, {[(type(s).__name__, s.epochs) for s in recipe.stages]}; "
        f"seed 0; {len(photos.train):,} photos to train on, accuracy of each exported file on all {len(photos.test)} "
        "held out, with 95 % intervals (Wilson); latency of one image on one thread",
    ]
    publish(
        "transfer_quality",
        f"{len(photos.class_names or ())} kinds of flowers with {Path(source).stem}",
        ["file", "accuracy", "95 %", "bytes", "deflated", "ms", "s"],
        rows,
        facts,
    )


if __name__ == "__main__":
    main()
