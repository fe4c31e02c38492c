"""The recipes of tasks on real data, three seeds each: float and int8 on the test part, bytes.

    python benchmarks/tasks.py --shared shared/ --work .data/

The shared folder holds data/ and models/. Each row is the mean and the standard deviation over the seeds, of the file
measured on the test part: for spoken digits, questions and CIFAR-10 their own; for reviews a tenth, for membranes 6 of
30 images, for heartbeats five folds. A seed draws the validation part, by which everything is chosen, and trains. Runs
that are done are kept in benchmarks/results/tasks.json and skipped as long as their recipe stays the same; the one that
was interrupted goes on from its checkpoint in the work folder. Writes benchmarks/results/tasks.md after each run.
"""

import dataclasses
import hashlib
import json
import os
import runpy
import shutil
import statistics
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import RESULTS, publish

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
LOG = RESULTS / "tasks.json"
FOLDS = 5
TEST_IMAGES, TILE = 6, 128
CIFAR_IMAGES = 10_000
Names = dict[str, Any]
"""What a recipe file defines."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where data and intermediate files are."""

    shared: Path
    work: Path

    def unpacked(self, name: str) -> Path:
        """Return the folder in the work folder that the zip file called `name` holds."""
        if not (self.work / name).is_dir():
            with zipfile.ZipFile(self.shared / "data" / f"{name}.zip") as archive:
                archive.extractall(self.work)
        return self.work / name


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        name: in the table.
        recipe: its name in recipes/.
        datasets: from places and a seed to data sets, several for folds.
        model: from places, what the recipe file defines and a data set to a model; None for the recipe's own.
        teacher: the same for a teacher.
        metric: that is compared.
        floor: of the int8 file.
        adapted: the recipe as it is used.
    """

    name: str
    recipe: str
    datasets: Callable[[Places, int], Iterator[Any]]
    floor: str
    model: Callable[[Places, Names, Any], Any] | None = None
    teacher: Callable[[Places, Names, Any], Any] | None = None
    metric: str = "accuracy"
    adapted: Callable[[Any], Any] = lambda recipe: recipe


def questions(places: Places, seed: int) -> Iterator[Any]:
    import tfopt

    yield tfopt.load_data(places.shared / "data" / "trec_questions.csv.gz", seed=seed)


def reviews(places: Places, seed: int) -> Iterator[Any]:
    import tfopt

    yield tfopt.load_data(places.shared / "data" / "rt_polarity.csv.gz", seed=seed, test=0.1)


def pairs_of_words(places: Places, seed: int) -> Iterator[Any]:
    """Yield the reviews as words and pairs of neighbors."""
    import tfopt

    text = tfopt.inputs.Text(ngrams=2, vocabulary_size=30_000)
    yield tfopt.load_data(places.shared / "data" / "rt_polarity.csv.gz", preprocessing=text, seed=seed, test=0.1)


def averaged_words(places: Places, names: Names, data: Any) -> Any:
    """Return a linear classifier of mean embeddings (fastText: Joulin et al. 2016, arXiv:1607.01759)."""
    import keras

    del places, names
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(data.input_shape, dtype="int32"),
            layers.Embedding(len(data.preprocessing.vocabulary), 16),
            layers.Dropout(0.3),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(0.3),
            layers.Dense(data.num_classes, activation="softmax"),
        ]
    )


def spoken_digits(places: Places, seed: int) -> Iterator[Any]:
    import tfopt

    yield tfopt.load_data(places.unpacked("spoken_digits"), seed=seed)


def heartbeats(places: Places, seed: int) -> Iterator[Any]:
    import tfopt

    with np.load(places.shared / "data" / "ecg5000.npz") as stored:
        x, y = stored["x"].astype(np.float32), stored["y"]
    order = np.random.default_rng(seed).permutation(len(x))
    order = order[np.argsort(y[order], kind="stable")]  # spreads each class over the folds; one has two beats
    for fold in range(FOLDS):
        test = order[fold::FOLDS]
        train = np.setdiff1d(order, test)
        yield tfopt.load_data(((x[train], y[train]), (x[test], y[test])), seed=seed)


def spectra(places: Places, seed: int) -> Iterator[Any]:
    """Yield what ad01 takes, 128 log-mel bands of 5 frames in dB: one window from each recording of a spoken digit."""
    import tfopt

    sound = tfopt.inputs.Sound(rate=16_000, seconds=0.25, mels=128, frame=0.064, hop=0.032, lowest=20.0)
    data = tfopt.load_data(places.unpacked("spoken_digits"), preprocessing=sound, seed=seed)
    train, test = (
        (part.x()[:, :5].reshape(len(part), -1) * (10 / np.log(10)), np.zeros(len(part), np.int32))
        for part in (data.train, data.test)
    )
    yield tfopt.load_data((train, test), task="reconstruction", seed=seed)


def membranes(places: Places, seed: int) -> Iterator[Any]:
    """Yield tiles of the images; those of 6 images are the test part, those of 3 others the validation part."""
    import tfopt

    data = tfopt.load_data(places.unpacked("membrane"), seed=0, validation=0.1, test=TEST_IMAGES / 30)
    images = np.concatenate([data.split(part).inputs for part in ("train", "validation", "test")])
    masks = np.concatenate([data.split(part).labels for part in ("train", "validation", "test")])
    test = len(images) - TEST_IMAGES
    order = np.random.default_rng(seed).permutation(test)
    parts = order[3:], order[:3], np.arange(test, len(images))
    yield tfopt.load_data(tuple((tiles(images[part]), tiles(masks[part])) for part in parts), preprocessing="unit")


def tiles(images: np.ndarray) -> np.ndarray:
    """Return (n, height, width, ...) cut into squares of `TILE` pixels."""
    count, height, width, *channels = images.shape
    rows, columns = height // TILE, width // TILE
    cut = images.reshape(count, rows, TILE, columns, TILE, *channels).swapaxes(2, 3)
    return cut.reshape(-1, TILE, TILE, *channels)


def cifar10(places: Places, seed: int) -> Iterator[Any]:
    import tfopt

    yield tfopt.load_data(places.unpacked("cifar10"), limit=CIFAR_IMAGES, preprocessing="unit", seed=seed)


def resnet50(places: Places, names: Names, data: Any) -> Any:
    """Return the teacher of all seeds, which learns once, from all training images: it should know more."""
    import keras

    import tfopt

    del data
    file = places.work / "resnet50_cifar10_all.keras"
    if not file.is_file():
        everything = tfopt.load_data(places.unpacked("cifar10"), preprocessing="unit", seed=0)
        checkpoint = places.work / "checkpoints" / "resnet50"
        teacher = tfopt.optimize(
            names["resnet50"](everything), names["teacher_recipe"], everything, checkpoint=checkpoint
        )
        teacher.model.save(file)
        click.echo(f"ResNet-50: {teacher.report.rows[-1].metrics}")
    return keras.models.load_model(file)


def ad01(places: Places, names: Names, data: Any) -> Path:
    del names, data
    return places.shared / "models" / "ad01.h5"


def without_teacher(recipe: Any) -> Any:
    return dataclasses.replace(recipe, distillation=None)


def faster(recipe: Any) -> Any:
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, learning_rate=5e-3))


def in_int8(recipe: Any) -> Any:
    import tfopt

    return dataclasses.replace(recipe, stages=(tfopt.PostTraining(weight_bits=8, rounding="nearest"),))


TASKS = {
    task.name: task
    for task in (
        Task("questions", "text_classification", questions, "88 %"),
        Task("reviews", "text_classification", reviews, "75 %"),
        Task("reviews by pairs", "text_classification", pairs_of_words, "75 %", averaged_words, adapted=faster),
        Task("heartbeats", "signals", heartbeats, "92 %"),
        Task("spoken digits", "spoken_digits", spoken_digits, "97 %, 40 kB"),
        Task("anomalies", "post_training", spectra, "as in float", ad01, metric="mse", adapted=in_int8),
        Task("membranes", "segmentation", membranes, "91 %, 500,000 parameters"),
        Task("MobileNetV2 alone", "resnet_to_mobilenet", cifar10, "", adapted=without_teacher),
        Task("ResNet-50 to MobileNetV2", "resnet_to_mobilenet", cifar10, "above alone", teacher=resnet50),
    )
}


def run(task: Task, data: Any, key: dict[str, Any], names: Names, recipe: Any, places: Places) -> dict[str, Any]:
    """Return the metrics of the float model and of the file, its bytes and parameters."""
    import tfopt

    checkpoint = places.work / "checkpoints" / "_".join(str(value) for value in key.values())
    model = task.model(places, names, data) if task.model else names["example_model"](data)
    teacher = task.teacher(places, names, data) if task.teacher else None
    result = tfopt.optimize(model, recipe, data, teacher=teacher, quiet=True, checkpoint=checkpoint)
    shutil.rmtree(checkpoint, ignore_errors=True)
    rows = result.report.rows
    trained = [row for row in rows if row.step in ("original", "FineTune")][-1]
    return {
        **key,
        "float": trained.metrics,
        "int8": rows[-1].metrics,
        "bytes": rows[-1].bytes,
        "parameters": rows[-1].parameters,
        "test": len(data.test),
    }


def recipe_of(task: Task, names: Names, seed: int, factor: float) -> Any:
    recipe = dataclasses.replace(names["recipe"].seeded(seed).scaled(factor), max_drop=None)
    return task.adapted(recipe)


def digest(task: Task, recipe: Any) -> str:
    """Return a short hash of the recipe and of the file that defines it and its models."""
    return hashlib.sha256(repr(settings_of(recipe)).encode() + file_of(task).read_bytes()).hexdigest()[:12]


def settings_of(value: Any) -> Any:
    """Return the settings of a recipe that are not defaults: a setting that is new since a run leaves the run valid."""
    if isinstance(value, tuple | list):
        return [settings_of(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    defaults = {field.name: getattr(field.default, "default", field.default) for field in dataclasses.fields(value)}
    made = {
        field.name: field.default_factory()
        for field in dataclasses.fields(value)
        if field.default_factory is not dataclasses.MISSING
    }
    given = {name: getattr(value, name) for name in defaults}
    return type(value).__name__, {
        name: settings_of(each) for name, each in given.items() if each != (defaults | made)[name]
    }


def file_of(task: Task) -> Path:
    return RECIPES / f"{task.recipe}.py"


@click.command(help=__doc__)
@click.option("--shared", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".data"), show_default=True)
@click.option("--task", "chosen", multiple=True, type=click.Choice(list(TASKS)), help="Only these; can be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--epochs-factor", type=float, default=1.0, show_default=True)
def main(shared: Path, work: Path, chosen: tuple[str, ...], seeds: int, epochs_factor: float) -> None:
    work.mkdir(parents=True, exist_ok=True)
    places = Places(shared, work)
    done = json.loads(LOG.read_text()) if LOG.exists() else []
    for name in chosen or TASKS:
        task = TASKS[name]
        names = runpy.run_path(str(file_of(task)))
        for seed in range(seeds):
            recipe = recipe_of(task, names, seed, epochs_factor)
            for fold, data in enumerate(task.datasets(places, seed)):
                key = {"task": name, "seed": seed, "fold": fold, "recipe": digest(task, recipe)}
                if any(key.items() <= each.items() for each in done):
                    continue
                done.append(run(task, data, key, names, recipe, places))
                LOG.write_text(json.dumps(done, indent=1) + "\n")
                print(done[-1], flush=True)
                table(done, seeds, epochs_factor)
    table(done, seeds, epochs_factor)


def table(done: list[dict[str, Any]], seeds: int, factor: float) -> None:
    """Publish the runs that were made with the recipes as they are."""
    rows = []
    for name, task in TASKS.items():
        names = runpy.run_path(str(file_of(task)))
        recipes = {digest(task, recipe_of(task, names, seed, factor)) for seed in range(seeds)}
        runs = [each for each in done if each["task"] == name and each["recipe"] in recipes]
        rows.append(
            row(task, runs) if runs else [name, task.recipe, task.metric, *["not run"] * 2, *[""] * 4, task.floor, "0"]
        )
    header = [
        "task",
        "recipe",
        "metric",
        "float",
        "int8",
        "int8 - float, worst seed",
        "bytes",
        "parameters",
        "test",
        "floor",
        "runs",
    ]
    facts = [
        f"python benchmarks/tasks.py --shared shared/ --seeds {seeds} --epochs-factor {factor:g}",
        "reviews by pairs: the mean embedding of words and pairs of words, learning rate 5e-3, chosen on validation",
        f"membranes: tiles of {TILE} x {TILE} pixels; the second metric is the mean IoU",
        "anomalies: MLPerf Tiny's ad01 as it is, on windows of spoken digits, since its own recordings of toy cars are "
        "not at hand; the metric is the mean squared error in dB^2",
        f"CIFAR-10: {CIFAR_IMAGES:,} training images, a tenth of them for validation, and all test images; the "
        "ResNet-50 has an eighth of the filters and has learned from all 50,000, a tenth of them for validation",
    ]
    publish("tasks", "Tasks: the test part over the seeds", header, rows, facts)


def row(task: Task, runs: list[dict[str, Any]]) -> list[str]:
    shown = [task.metric, *(["mean_iou"] if "mean_iou" in runs[0]["int8"] else [])]
    cells = [task.name, task.recipe, ", ".join(shown)]
    for which in ("float", "int8"):
        cells.append(", ".join(spread([each[which][metric] for each in runs], metric) for metric in shown))
    return [
        *cells,
        worst(task.metric, runs),
        *(f"{statistics.mean(each[which] for each in runs):,.0f}" for which in ("bytes", "parameters", "test")),
        task.floor,
        str(len(runs)),
    ]


def spread(values: list[float], metric: str) -> str:
    """Return mean and standard deviation, in percent for shares."""
    factor, unit = (1, "") if metric == "mse" else (100, " %")
    deviation = f" ± {factor * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{factor * statistics.mean(values):.2f}{deviation}{unit}"


def worst(metric: str, runs: list[dict[str, Any]]) -> str:
    """Return how the file differs from the float model for the seed where it differs most to its disadvantage."""
    seeds = {each["seed"]: [other for other in runs if other["seed"] == each["seed"]] for each in runs}
    pairs = [
        [statistics.mean(fold[which][metric] for fold in folds) for which in ("int8", "float")]
        for folds in seeds.values()
    ]
    if metric == "mse":
        return f"x {max(int8 / exact for int8, exact in pairs):.4f}"
    return f"{100 * min(int8 - exact for int8, exact in pairs):+.2f} points"


if __name__ == "__main__":
    main()
