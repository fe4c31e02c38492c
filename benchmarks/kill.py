"""Kill runs at random moments, let the same command go on, and compare the file with that of a run left alone.

    python benchmarks/kill.py

One run prunes, clusters and quantizes a small CNN for the handwritten digits under a teacher; the other is a depth
study, which trains networks on a new task, and a fine-tuning. Each is first left alone, then killed (SIGKILL) at
moments drawn evenly over its time, and started again. Lost are the epochs that are trained more than once. What was
measured is kept in benchmarks/results/kill.json, so that the runs can be measured one by one (--only).
"""

import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from common import RESULTS, publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
TITLE = "Runs killed at random moments and started again"
KEPT = RESULTS / "kill.json"
COLUMNS = ["run", "epochs", "seconds", "same file", "finished epochs repeated, at most"]
EPOCH = re.compile(r"^(?P<training>.*) epoch (?P<number>\d+/\d+) ", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """A command, and the folder of its result."""

    name: str
    arguments: list[str]
    folder: Path

    def start(self, kill_after: float | None = None) -> tuple[str, float, bool]:
        """Return what the command prints, its seconds, and whether it ended by itself."""
        command = [sys.executable, "-m", "tfopt", "run", *self.arguments, "--out", str(self.folder)]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                said = process.communicate(timeout=kill_after)[1]
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                said = process.communicate()[1]
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"{self.name} failed:\n{said}")
        return said, time.monotonic() - started, process.returncode == 0

    @property
    def is_written(self) -> bool:
        """Whether the whole result is in the folder."""
        return (self.folder / "report.json").exists() and not (self.folder / ".tfopt" / "swap.json").exists()

    @property
    def file(self) -> bytes:
        return (self.folder / "model.tflite").read_bytes()


def epochs_in(said: str) -> list[tuple[str, str]]:
    """Return the epochs that a run reports, with the training that each belongs to."""
    return [(found["training"], found["number"]) for found in EPOCH.finditer(said)]


def prepared(folder: Path) -> list[Run]:
    """Write models and recipes, and return the runs."""
    import tfopt
    from tfopt.run.examples import digits_model, with_classes

    data = tfopt.load_data("digits")
    models = {
        "student": digits_model(data, width=0.4, epochs=3, name="student"),
        "teacher": digits_model(data, epochs=3, name="teacher"),
        "source": digits_model(with_classes(data, "01234"), width=0.4, epochs=3, name="source"),
    }
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    training = tfopt.Training(batch_size=16)
    compressed = tfopt.Recipe(
        stages=(tfopt.Prune(epochs=4), tfopt.Cluster(epochs=2), tfopt.Quantize(epochs=2)),
        distillation=tfopt.Distillation(),
        training=training,
        name="compressed",
        max_drop=None,  # no second tries
    )
    study = tfopt.transfer.DepthStudy(epochs=3, places=1, batch_size=16)
    moved = tfopt.Recipe(
        transfer=study, stages=(tfopt.FineTune(epochs=2),), training=training, name="transfer", max_drop=None
    )
    for recipe in (compressed, moved):
        (folder / f"{recipe.name}.json").write_text(recipe.to_json(), encoding="utf-8")

    def run(name: str, model: str, *more: str) -> Run:
        model_file = str(folder / f"{model}.keras")
        return Run(
            name, [str(folder / f"{name}.json"), "--model", model_file, "--data", "digits", *more], folder / name
        )

    teacher = ["--teacher", str(folder / "teacher.keras"), "--teacher-preprocessing", "raw"]
    return [run("compressed", "student", *teacher), run("transfer", "source")]


def killed_at(run: Run, moment: float) -> tuple[int, str]:
    """Kill a run at `moment`, in seconds, and start it again; return how many epochs that cost, and where it was.

    A run that has ended by then is killed earlier.
    """
    ended = True
    while ended:
        shutil.rmtree(run.folder, ignore_errors=True)
        first, _, ended = run.start(kill_after=moment)
        moment *= 0.8
    second = "" if run.is_written else run.start()[0]  # the moment may be after the result, before the end
    done, again = epochs_in(first), epochs_in(second)
    where = first.strip().splitlines()[-1][:40] if first.strip() else "starting"
    return len(set(done) & set(again)), where


def throughput(rounds: int) -> str:
    """Return the speed of training with checkpoints, relative to training without, of interleaved rounds."""
    import numpy as np
    from fit_speed import resnet8

    import tfopt
    from tfopt.base.progress import Progress
    from tfopt.training.backup import Backup
    from tfopt.training.fit import train
    from tfopt.training.loss import choose_loss

    rng = np.random.default_rng(0)
    data = tfopt.load_data((rng.uniform(0, 255, (4000, 32, 32, 3)).astype(np.float32), rng.integers(0, 10, 4000)))
    training, stage, model = tfopt.Training(), tfopt.Prune(), resnet8()
    seconds: dict[str, list[float]] = {"plain": [], "kept": []}
    of_cpu: dict[str, list[float]] = {"plain": [], "kept": []}
    for number in range(2 * rounds):
        with tempfile.TemporaryDirectory() as place:
            kind = ("plain", "kept")[number % 2]
            backup = Backup(Path(place) if kind == "kept" else None)
            applied = stage.apply(model, steps=2 * data.steps(training.batch_size))
            batches = data.batches("train", training.batch_size, shuffle=True, position=backup.position)
            started, cpu = time.perf_counter(), time.process_time()
            train(
                applied, batches, data, loss=choose_loss(applied, training, data), training=training, epochs=2,
                progress=Progress(quiet=True), label=kind, callbacks=stage.callbacks(), backup=backup,
            )  # fmt: skip
            seconds[kind].append(time.perf_counter() - started)
            of_cpu[kind].append(time.process_time() - cpu)
    plain, kept = (statistics.median(each) for each in seconds.values())
    plain_cpu, kept_cpu = (statistics.median(each) for each in of_cpu.values())
    return (
        f"with checkpoints a training runs at {plain / kept:.3f} of the speed without, and takes "
        f"{kept_cpu / plain_cpu:.3f} of the CPU time: 2 epochs of ResNet-8 under Prune, {len(data.train):,} images, "
        f"medians of {rounds} interleaved rounds (plain {plain:.1f} s, {plain_cpu:.1f} s of CPU)"
    )


@click.command(help=__doc__)
@click.option("--kills", default=20, show_default=True, help="For each run.")
@click.option("--seed", default=0, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Of the comparison of speeds.")
@click.option("--only", type=click.Choice(["compressed", "transfer", "speed"]), help="Measure this alone.")
def main(kills: int, seed: int, rounds: int, only: str | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        for run in prepared(Path(place)):
            if only in (None, run.name):
                measure(run, kills, random.Random(seed))
    if only in (None, "speed"):
        keep(speed=throughput(rounds))
    print_table([f"python benchmarks/kill.py --kills {kills} --seed {seed} --rounds {rounds}"])


def measure(run: Run, kills: int, rng: random.Random) -> None:
    """Kill `run` at `kills` moments, and keep after each what was found."""
    said, seconds, _ = run.start()
    file, epochs, found = run.file, len(epochs_in(said)), list[dict[str, Any]]()
    for number in rng.sample(range(kills), kills):
        moment = seconds * (number + rng.random()) / kills
        lost, where = killed_at(run, moment)
        found.append({"second": round(moment, 1), "at": where, "same": run.file == file, "lost": lost})
        click.echo(f"{run.name}: {json.dumps(found[-1])}")
        keep(**{run.name: {"epochs": epochs, "seconds": round(seconds), "kills": found}})


def kept() -> dict[str, Any]:
    """Return what was measured so far."""
    return json.loads(KEPT.read_text()) if KEPT.is_file() else {}


def keep(**found: Any) -> None:
    """Add to what was measured."""
    KEPT.write_text(json.dumps(kept() | found, indent=1) + "\n")


def print_table(notes: list[str]) -> None:
    """Print and write the table of all that was measured."""
    all_found = kept()
    speed = all_found.pop("speed", None)
    rows = [
        [
            name,
            f"{run['epochs']}",
            f"{run['seconds']}",
            f"{sum(each['same'] for each in run['kills'])} of {len(run['kills'])}",
            f"{max(each['lost'] for each in run['kills'])}",
        ]
        for name, run in all_found.items()
    ]
    publish("kill", TITLE, COLUMNS, rows, [*notes, f"{os.cpu_count()} CPU cores", *([speed] if speed else [])])


if __name__ == "__main__":
    main()
