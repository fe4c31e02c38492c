"""Halve the multiplications of every model of the coverage table by removing channels; write a section of its page.

    python benchmarks/channels_coverage.py --autoencoder ad01.h5
    python benchmarks/channels_coverage.py --only LSTM

Nothing is trained. Each model loses its least important channels, is compared with itself with zeros in their place
(1e-5 of the largest output, or it fails), returns to Keras 3 and is exported as int8. Each runs in a separate process;
finished ones are kept in benchmarks/results/channels_coverage.json and skipped, unless --again. Then
benchmarks/coverage.py writes the page.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import coverage
import zoo
from common import RESULTS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

KEPT = RESULTS / "channels_coverage.json"
RATIO = 0.5
BLOCKS = (8, 1)  # channels stay in multiples of 8; of 1 in models that are too narrow for it


def halved(build: Callable[[Any], Any]) -> dict[str, Any]:
    """Return one row: what became of the model, and the seconds it took."""
    import keras

    import tfopt
    from tfopt import bridge
    from tfopt.errors import RecipeError
    from tfopt.tflite.settings import Export
    from tfopt.tflite.write.export import build_file

    keras.utils.set_random_seed(coverage.SEED)
    model = build(keras)
    zoo.randomize(model, coverage.SEED)
    x = coverage.samples(bridge.to_tf_keras(model))
    started = time.perf_counter()
    for block in BLOCKS:
        stage = tfopt.PruneChannels(
            epochs=0, final_ratio=RATIO, round_to=block, least=0, attention="both", reconstruct=False
        )
        try:
            wrapped = stage.apply(model, steps=0)
            break
        except RecipeError:  # no multiple of 8 reaches it
            if block == BLOCKS[-1]:
                raise
    stage.calibrate(wrapped, x)
    small = stage.strip(wrapped)
    seconds = time.perf_counter() - started
    macs = stage.summary(wrapped)[0].partition("(")[2].partition("x")[0]
    lite = build_file(small, Export(allow_drift=True), x)
    return {
        "macs": f"{macs}x fewer",
        "parameters": f"{model.count_params():,} -> {small.count_params():,}",
        "block": block,
        "file": f"{len(lite.float_tensors())} float, {coverage._error(lite, bridge.to_tf_keras(small), x)}",
        "seconds": round(seconds, 1),
    }


@click.command()
@click.option("--autoencoder", type=click.Path(path_type=Path, exists=True), help="The file of the autoencoder row.")
@click.option("--only", multiple=True, help="Only this row (can be repeated).")
@click.option("--again", is_flag=True, help="Also repeat rows that are kept.")
@click.option("--limit", default=1200, show_default=True, help="Time limit for one row in seconds.")
@click.option("--job", hidden=True, help="Internal: print one row as JSON.")
def main(autoencoder: Path | None, only: tuple[str, ...], again: bool, limit: int, job: str | None) -> None:
    """Halve every model, and write the section of docs/coverage.md."""
    models = coverage.builders(autoencoder)
    if job:
        click.echo("\n" + json.dumps(halved(models[job])))
        return
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for name in only or models:
        if again or name not in kept:
            kept[name] = _in_a_process(name, autoencoder, limit)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
            click.echo(f"{name}: {json.dumps(kept[name])}")


def _in_a_process(name: str, autoencoder: Path | None, limit: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", name]
    command += ["--autoencoder", str(autoencoder)] if autoencoder else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {limit} s"}
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not last[0].startswith("{"):
        return {"error": coverage.one_line(done.stderr)[-300:]}
    return dict(json.loads(last[0]))


if __name__ == "__main__":
    main()
