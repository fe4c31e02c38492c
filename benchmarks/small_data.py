"""The default recipes on little data: what each step reaches, and what a logistic regression does.

    python benchmarks/small_data.py --shared shared/ --work .data/

Cells are pairs of a data set cut to some samples per class and a recipe of recipes/. The columns are test accuracies,
mean and standard deviation over the seeds; a seed draws the samples, splits off validation and trains. "logistic
regression" is scikit-learn's, with cross-validated L2, on the features of the source model, once from the samples that
tfopt trains on, and once from those for validation too. In the cells of `distill` the teacher is the model that the
other recipes compress, and the student a smaller network, trained on the same samples before. Each run is kept in
benchmarks/results/small_data.json, so that an interrupted benchmark goes on. Writes benchmarks/results/small_data.md.

For the column "int8 before", run it with an older tfopt on PYTHONPATH:

    PYTHONPATH=older/ python benchmarks/small_data.py --shared shared/ --work .data/ --before older/recipes
"""

import dataclasses
import json
import os
import runpy
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
LOG = Path(__file__).resolve().parent / "results" / "small_data.json"
DISTILL = "distill"
COMPRESSION = ("deep_compression", "quantize_aware", "post_training", DISTILL)
CELLS = {
    "digits 20": COMPRESSION,
    "ecg 500": COMPRESSION,
    "cifar10 50": COMPRESSION,
    "spoken digits 20": COMPRESSION,
    "flowers 10": ("feature_transfer",),
    "flowers 25": ("feature_transfer",),
    "flowers 100": ("feature_transfer",),
}
REGRESSIONS = ("logistic regression", "logistic regression, validation too")
STEPS = ("original", "FeatureTransfer", "FineTune", "Prune", "Cluster", "exported int8")
PHOTO = (96, 96)
Arrays = tuple[np.ndarray, np.ndarray]


def per_class(data: Arrays, number: int, seed: int) -> Arrays:
    """Return `number` samples of each class, drawn by `seed`, in random order."""
    x, y = data
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:number] for c in np.unique(y)])
    chosen = rng.permutation(chosen)
    return x[chosen], y[chosen]


def shuffled(data: Arrays, seed: int) -> Arrays:
    x, y = data
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order], y[order]


def images(folder: Path, size: tuple[int, int] | None = None) -> Arrays:
    """Return the images of one folder per class, uint8 (n, height, width, 3), kept in a .npz beside the folder."""
    from PIL import Image

    kept = folder.with_name(f"{folder.name}_{size}.npz")
    if not kept.exists():
        files = [(file, c) for c, each in enumerate(sorted(folder.iterdir())) for file in sorted(each.iterdir())]
        opened = (Image.open(file).convert("RGB") for file, _ in files)
        x = np.stack([np.asarray(image.resize(size) if size else image) for image in opened])
        np.savez(kept, x=x, y=np.array([c for _, c in files], np.int32))
    with np.load(kept) as stored:
        return stored["x"], stored["y"]


def spectrograms(folder: Path) -> Arrays:
    """Return log-magnitude spectrograms (n, 64, 64, 1) of the recordings, padded or cut to 8,192 samples at 8 kHz."""
    import wave

    found, labels = [], []
    for c, each in enumerate(sorted(folder.iterdir())):
        for file in sorted(each.iterdir()):
            with wave.open(str(file)) as opened:
                sound = np.frombuffer(opened.readframes(opened.getnframes()), np.int16).astype(np.float32) / 2**15
            sound = np.pad(sound[:8192], (0, max(0, 8192 - len(sound)))).reshape(64, 128)
            found.append(np.log(1e-3 + np.abs(np.fft.rfft(sound * np.hanning(128), axis=1)[:, :64])))
            labels.append(c)
    return np.stack(found)[..., None].astype(np.float32), np.array(labels, np.int32)


def small_cnn(data: Any, seed: int, epochs: int = 80, widths: tuple[int, ...] = (16, 32, 32)) -> Any:
    """Return a CNN trained on `data` alone: the model to be compressed, where there is no pretrained one."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    flat = len(data.input_shape) == 2
    convolution = layers.Conv1D if flat else layers.Conv2D
    pooling = layers.GlobalAveragePooling1D if flat else layers.GlobalAveragePooling2D
    model = keras.Sequential([keras.Input(data.input_shape)])
    for width in widths:
        model.add(convolution(width, 5, strides=2, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(pooling())
    model.add(layers.Dense(data.num_classes, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train.x(), data.train.y(), epochs=epochs, batch_size=32, verbose=0)
    return model


def cell(name: str, seed: int, shared: Path, work: Path) -> tuple[Any, Any]:
    """Return the source model and the data of a cell."""
    import tfopt
    from tfopt.run.examples import digits_model

    kind, _, number = name.rpartition(" ")
    models = shared / "models"
    if kind == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, y = shuffled(((x / 16).reshape(-1, 8, 8, 1).astype(np.float32), y.astype(np.int32)), 99)
        data = tfopt.load_data((per_class((x[600:], y[600:]), int(number), seed), (x[:600], y[:600])), seed=seed)
        return digits_model(data, seed=seed, epochs=60), data
    if kind == "ecg":
        with np.load(shared / "data" / "ecg5000.npz") as stored:
            x, y = shuffled((stored["x"].astype(np.float32), stored["y"].astype(np.int32)), seed)
        data = tfopt.load_data(((x[:300], y[:300]), (x[300:], y[300:])), seed=seed)
        return small_cnn(data, seed), data
    if kind == "cifar10":
        test = per_class(images(work / "cifar10" / "test"), 200, 0)
        train = per_class(images(work / "cifar10" / "train"), int(number), seed)
        return tfopt.load_model(models / "resnet8_cifar10.h5"), tfopt.load_data((train, test), seed=seed)
    if kind == "spoken digits":
        sounds = work / "spoken_digits"
        train = per_class(spectrograms(sounds / "train"), int(number), seed)
        data = tfopt.load_data((train, per_class(spectrograms(sounds / "test"), 60, 0)), seed=seed)
        return small_cnn(data, seed), data
    x, y = shuffled(images(work / "flowers", PHOTO), 99)
    train = per_class((x[700:], y[700:]), int(number), seed)
    data = tfopt.load_data((train, (x[:700], y[:700])), seed=seed, preprocessing="symmetric")
    return tfopt.load_model(models / "mobilenet_025_224_imagenet.keras"), data


def student_of(name: str, seed: int, data: Any) -> Any:
    """Return the small network that the model of a cell teaches, trained on the same samples."""
    from tfopt.run.examples import digits_model

    if name.startswith("digits"):
        return digits_model(data, width=0.4, seed=seed, epochs=60, name="student")
    return small_cnn(data, seed, widths=(8, 16, 16))


def logistic_regression(model: Any, data: Any) -> dict[str, float]:
    """Return the test accuracies of scikit-learn's logistic regression on the pooled features of `model`."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from tfopt.transfer import feature_extractor

    extract = feature_extractor(model, input_shape=data.input_shape)
    known = [np.asarray(extract.predict(part.x(), verbose=0)) for part in (data.train, data.validation, data.test)]
    found = {}
    for name, count in zip(REGRESSIONS, (1, 2), strict=True):
        y = np.concatenate([data.train.y(), data.validation.y()][:count])
        regression = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 2, 7), max_iter=2000))
        found[name] = float(regression.fit(np.concatenate(known[:count]), y).score(known[2], data.test.y()))
    return found


def run(name: str, recipe_name: str, seed: int, recipes: Path, shared: Path, work: Path) -> dict[str, Any]:
    """Return the test accuracy of each step of one run, as plain data."""
    import tfopt

    recipe = runpy.run_path(str(recipes / f"{recipe_name}.py"))["recipe"].seeded(seed)
    model, data = cell(name, seed, shared, work)
    if recipe.transfer:
        shape = data.input_shape
        recipe = dataclasses.replace(recipe, transfer=dataclasses.replace(recipe.transfer, input_shape=shape))
    teacher = None
    if recipe_name == DISTILL:
        model, teacher = student_of(name, seed, data), model
    result = tfopt.optimize(model, recipe, data, teacher=teacher, quiet=True)
    steps = {row.step: row.metrics["accuracy"] for row in result.report.rows}
    if recipe.transfer:
        steps.update(logistic_regression(model, data))
    verdict = getattr(result, "verdict", None)
    return {
        "cell": name,
        "recipe": recipe_name,
        "seed": seed,
        "steps": steps,
        "ok": verdict is None or verdict.ok,
        "seconds": sum(row.seconds for row in result.report.rows),
    }


def column(step: str, runs: list[dict[str, Any]]) -> str:
    values = [100 * run["steps"][step] for run in runs if step in run["steps"]]
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {spread:.1f}" + (f" ({len(values)})" if len(values) < len(runs) else "")


def row_of(name: str, recipe: str, runs: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[str]:
    lost = [
        100 * (max(v for k, v in run["steps"].items() if k in STEPS[:-1]) - run["steps"][STEPS[-1]]) for run in runs
    ]
    ended = sum(not run["ok"] for run in runs)
    columns = [column(step, runs) for step in (*REGRESSIONS, *STEPS)]
    return [name, recipe, *columns, column(STEPS[-1], before), f"{max(lost, default=0):.1f}", str(ended)]


def publish_table(runs: list[dict[str, Any]], seeds: int) -> None:
    from common import publish

    def of(name: str, recipe: str, before: bool) -> list[dict[str, Any]]:
        cell = (name, recipe, before)
        return [run for run in runs if (run["cell"], run["recipe"], run["before"]) == cell and run["seed"] < seeds]

    pairs = [(name, recipe) for name, recipes in CELLS.items() for recipe in recipes]
    rows = [row_of(*pair, of(*pair, False), of(*pair, True)) for pair in pairs if of(*pair, False)]
    header = ["data, samples per class", "recipe", *REGRESSIONS, *STEPS, "int8 before", "most lost",
              "ended by the guard"]  # fmt: skip
    facts = [f"test accuracy in percent, mean and standard deviation of {seeds} seeds (0 to {seeds - 1})",
             "int8 before: the file of tfopt at 2a7ab500, without a guard, by its own recipes on the same samples",
             "most lost: the largest difference of the best step before the file and the file, in points",
             f"flowers at {PHOTO[0]}x{PHOTO[1]} with MobileNet 0.25; cifar10 with MLPerf Tiny's ResNet-8; the others "
             "with small networks trained on the same few samples"]  # fmt: skip
    publish("small_data", "Default recipes on little data", header, rows, facts)


@click.command(help=__doc__)
@click.option("--shared", type=click.Path(path_type=Path), required=True, help="Folder with models/ and data/.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder with the unpacked data.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="Only the cells whose name begins with this.")
@click.option("--before", type=click.Path(path_type=Path), help="Run an older tfopt, with its recipes in this folder.")
def main(shared: Path, work: Path, seeds: int, only: tuple[str, ...], before: Path | None) -> None:
    runs = json.loads(LOG.read_text()) if LOG.exists() else []
    done = {(run["cell"], run["recipe"], run["seed"], run["before"]) for run in runs}
    cells = {name: recipes for name, recipes in CELLS.items() if not only or name.startswith(only)}
    wanted = [(name, recipe, seed) for name, recipes in cells.items() for recipe in recipes for seed in range(seeds)]
    for each in wanted:
        if (*each, bool(before)) not in done:
            runs.append({**run(*each, before or RECIPES, shared, work), "before": bool(before)})
            LOG.write_text(json.dumps(runs, indent=1) + "\n")
            click.echo(json.dumps(runs[-1]), err=True)
    publish_table(runs, seeds)


if __name__ == "__main__":
    main()
