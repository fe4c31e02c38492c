"""Train with two workers on this machine and with one process, at the same global batch: accuracy and speed.

    python benchmarks/distribute.py

A small CNN learns the handwritten digits from scratch and is then quantized. Each process has its own cores; samples
per second are of the first stage, from the end of its first epoch to the end of its last one, validation included.
"""

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from common import publish

EPOCHS = 12
RECIPE = f"""
import keras
import tfopt


def example_model(data):
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    stack = [layers.Conv2D(16, 3, activation="relu"), layers.Conv2D(32, 3, activation="relu"), layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack, layers.Dense(10, "softmax")])


recipe = tfopt.Recipe(
    stages=(tfopt.FineTune(epochs={EPOCHS}), tfopt.Quantize(epochs=2)),
    training=tfopt.Training(batch_size=64, seed=SEED),
)
"""
EPOCH = re.compile(r"FineTune epoch (\d+)/")
TRAINED = 1437  # training samples of the digits


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(
    folder: Path, seed: int, cores: str, worker: int | None = None, ports: list[int] | None = None
) -> subprocess.Popen:
    """Start one process of a run on its `cores`; `worker` of several ones on `ports`."""
    threads = str(len(cores.split(",")))
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "2"}
    more = []
    if ports:
        task = {
            "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
            "task": {"type": "worker", "index": worker},
        }
        environment["TF_CONFIG"], more = json.dumps(task), ["--distribute", "multiworker"]
    recipe = folder / f"recipe_{seed}.py"
    recipe.write_text(RECIPE.replace("SEED", str(seed)), encoding="utf-8")
    command = ["taskset", "-c", cores, sys.executable, "-m", "tfopt", "run", str(recipe), "--out", str(folder / "out")]
    return subprocess.Popen(
        [*command, *more], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def measured(folder: Path, seed: int, cores: list[str]) -> tuple[float, float]:
    """Return the test accuracy of the file and samples per second; one process for each of `cores`."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    ports = free_ports(len(cores)) if len(cores) > 1 else None
    chief, *others = (start(folder, seed, each, number, ports) for number, each in enumerate(cores))
    ends: list[float] = []
    said = []
    assert chief.stderr
    for line in chief.stderr:
        said.append(line)
        if EPOCH.search(line):
            ends.append(time.monotonic())
    for other in others:
        other.communicate()
    if chief.wait():
        raise SystemExit("".join(said))
    report = json.loads((folder / "out" / "report.json").read_text())
    return report["rows"][-1]["metrics"]["accuracy"], TRAINED * (len(ends) - 1) / (ends[-1] - ends[0])


@click.command()
@click.option("--seeds", default=3, show_default=True)
def main(seeds: int) -> None:
    """Measure, and write the table."""
    ways = {
        "one process, one core": ["0"],
        "one process, two cores": ["0,1"],
        "two workers, one core each": ["0", "1"],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            for name, cores in ways.items():
                found[name].append(measured(Path(place), seed, cores))
                click.echo(f"seed {seed}, {name}: {found[name][-1]}", err=True)
    rows = []
    for name, pairs in found.items():
        accuracies, speeds = zip(*pairs, strict=True)
        spread = statistics.stdev(accuracies) if seeds > 1 else 0.0
        rows.append([name, f"{statistics.mean(accuracies):.4f} ± {spread:.4f}", f"{statistics.median(speeds):,.0f}"])
    publish(
        "distribute",
        "Two workers on one machine against one process",
        ["", "test accuracy of the int8 file", "samples per second"],
        rows,
        [
            f"`python benchmarks/distribute.py --seeds {seeds}`; seeds 0 to {seeds - 1}, mean ± standard deviation",
            f"a small CNN on the digits, {EPOCHS} epochs from scratch and 2 of quantization, global batch 64; the "
            "workers talk over the loopback interface",
            f"{os.cpu_count()} cores; load average at the end {os.getloadavg()[0]:.1f}: other work took part of them",
        ],
    )


if __name__ == "__main__":
    main()
