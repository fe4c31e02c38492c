"""The recipes of texts, recordings and signals on real data: float and int8 accuracy, bytes.

    python benchmarks/tasks.py --shared shared/ --work .data/

The shared folder holds spoken_digits.zip, trec_questions.csv.gz, rt_polarity.csv.gz and ecg5000.npz. Each row is the
mean and the standard deviation over the seeds, of the file measured on the test part: for spoken digits and questions
their own, for reviews a tenth, for heartbeats five folds. A seed draws the validation part, and trains. Runs
are appended to tasks.jsonl in the work folder, so that an interrupted benchmark goes on. Writes
benchmarks/results/tasks.md.
"""

import dataclasses
import json
import os
import runpy
import statistics
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        recipe: its name in recipes/.
        datasets: from the shared folder, the work folder and a seed to data sets, several for folds.
        model: from a data set to an untrained model; None for that of the recipe.
        floor: the least accuracy of the int8 file.
    """

    recipe: str
    datasets: Callable[[Path, Path, int], Iterator[Any]]
    floor: float
    model: Callable[[Any], Any] | None = None


def spoken_digits(shared: Path, work: Path, seed: int) -> Iterator[Any]:
    import tfopt

    if not (work / "spoken_digits").is_dir():
        with zipfile.ZipFile(shared / "data" / "spoken_digits.zip") as archive:
            archive.extractall(work)
    yield tfopt.load_data(work / "spoken_digits", seed=seed)


def questions(shared: Path, work: Path, seed: int) -> Iterator[Any]:
    import tfopt

    yield tfopt.load_data(shared / "data" / "trec_questions.csv.gz", seed=seed)


def reviews(shared: Path, work: Path, seed: int) -> Iterator[Any]:
    import tfopt

    yield tfopt.load_data(shared / "data" / "rt_polarity.csv.gz", seed=seed, test=0.1)


def heartbeats(shared: Path, work: Path, seed: int) -> Iterator[Any]:
    import tfopt

    with np.load(shared / "data" / "ecg5000.npz") as stored:
        x, y = stored["x"].astype(np.float32), stored["y"]
    order = np.random.default_rng(seed).permutation(len(x))
    for fold in range(FOLDS):
        test = order[fold::FOLDS]
        train = np.setdiff1d(order, test)
        yield tfopt.load_data(((x[train], y[train]), (x[test], y[test])), seed=seed)


def heartbeat_model(data: Any) -> Any:
    """Return three convolutions over the 140 values of a beat."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input(data.input_shape)]
    for filters in (16, 32, 32):
        layers += [
            keras.layers.Conv1D(filters, 7, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    ending = keras.layers.Dense(data.num_classes, activation="softmax")
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling1D(), keras.layers.Dropout(0.2), ending])


TASKS = {
    "spoken digits": Task("spoken_digits", spoken_digits, 0.97),
    "questions": Task("text_classification", questions, 0.88),
    "reviews": Task("text_classification", reviews, 0.75),
    "heartbeats": Task("spoken_digits", heartbeats, 0.92, heartbeat_model),
}


def run(task: Task, data: Any, seed: int, factor: float) -> dict[str, Any]:
    """Return the accuracy of the float model and of the file, and its bytes."""
    import tfopt

    names = runpy.run_path(str(RECIPES / f"{task.recipe}.py"))
    recipe = dataclasses.replace(names["recipe"].seeded(seed).scaled(factor), max_drop=None)
    result = tfopt.optimize((task.model or names["example_model"])(data), recipe, data, quiet=True)
    rows = result.report.rows
    trained = [row for row in rows if row.step == "FineTune"][-1]
    return {
        "float": trained.metrics["accuracy"],
        "int8": rows[-1].metrics["accuracy"],
        "bytes": rows[-1].bytes,
        "parameters": rows[-1].parameters,
    }


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".data"), show_default=True)
@click.option("--task", "chosen", multiple=True, type=click.Choice(list(TASKS)), help="Only these; can be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--epochs-factor", type=float, default=1.0, show_default=True)
def main(shared: Path, work: Path, chosen: tuple[str, ...], seeds: int, epochs_factor: float) -> None:
    work.mkdir(parents=True, exist_ok=True)
    log = work / "tasks.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for name in chosen or TASKS:
        for seed in range(seeds):
            for fold, data in enumerate(TASKS[name].datasets(shared, work, seed)):
                key = {"task": name, "seed": seed, "fold": fold, "factor": epochs_factor}
                if any(key.items() <= each.items() for each in done):
                    continue
                done.append({**key, **run(TASKS[name], data, seed, epochs_factor)})
                with log.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
                print(done[-1], flush=True)
    rows = [row(name, [each for each in done if each["task"] == name and each["factor"] == epochs_factor])
            for name in TASKS if any(each["task"] == name for each in done)]  # fmt: skip
    header = ["task", "recipe", "float", "int8", "bytes", "parameters", "floor", "runs"]
    facts = [f"python benchmarks/tasks.py --seeds {seeds} --epochs-factor {epochs_factor:g}"]
    publish("tasks", "Texts, recordings and signals: test accuracy over the seeds", header, rows, facts)


def row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    task = TASKS[name]
    cells = [name, task.recipe]
    for which in ("float", "int8"):
        values = [100 * each[which] for each in runs]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.2f}{spread} %")
    for which in ("bytes", "parameters"):
        cells.append(f"{statistics.mean(each[which] for each in runs):,.0f}")
    return [*cells, f"{100 * task.floor:g} %", str(len(runs))]


if __name__ == "__main__":
    main()
