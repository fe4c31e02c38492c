"""Try every kind of Keras model with tfopt and with TF-MOT alone; write docs/coverage.md.

    python benchmarks/coverage.py --autoencoder ad01.h5
    python benchmarks/coverage.py --only LSTM --only GRU

Each model is built twice from the same code, in Keras 3 for tfopt and in tf_keras for TF-MOT (which rejects every
Keras 3 model), and each job runs in a separate process. Finished jobs are kept in benchmarks/results/coverage.json
and skipped, unless --again.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
import kinds
import numpy as np
import zoo
from common import RESULTS, versions

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SEED, SPARSITY, CLUSTERS, STEPS, BATCH = 0, 0.5, 16, 2, 4
KEPT = RESULTS / "coverage.json"
PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"


def one_line(text: str) -> str:
    """Return `text` without line breaks and local folders."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:\"]+/)+", "", " ".join(text.split()))


def attempt(row: dict[str, Any], column: str, work: Callable[[], Any]) -> Any:
    """Run `work`; store its result in `row` as `column`, or its error and which tool raised it."""
    started = time.perf_counter()
    try:
        row[column] = work()
    except Exception as error:
        row[column] = f"{type(error).__name__}: {one_line(str(error))[:300]}"
        row.setdefault("failed", []).append(column)
    row[f"{column} s"] = round(time.perf_counter() - started, 1)
    return row[column]


def takes_pixels(model: Any) -> bool:
    """Return whether the model begins by scaling pixels from 0 to 255, which makes other numbers nearly constant."""
    first = next((layer for layer in model.layers if type(layer).__name__ == "Rescaling"), None)
    return first is not None and float(np.max(first.scale)) < 0.1


def photo_like(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return images of a few soft patches of color with some noise, 0 to 255: their means differ as those of photos."""
    import tensorflow as tf

    count, height, width, channels = shape
    patches = rng.uniform(0, 255, (count, 4, 4, channels)) * rng.uniform(0.3, 1, (count, 1, 1, 1))
    smooth = tf.image.resize(patches, (height, width), "bicubic").numpy()
    return np.clip(smooth + rng.normal(0, 10, shape), 0, 255)


def samples(model: Any) -> Any:
    """Return random inputs for a model of either Keras: a list with one array per input, or a single array."""
    rng = np.random.default_rng(SEED)
    arrays = []
    for tensor in model.inputs:
        shape = (STEPS * BATCH, *tensor.shape[1:])
        integer = "int" in str(getattr(tensor.dtype, "name", tensor.dtype))
        values = photo_like(rng, shape) if takes_pixels(model) else rng.normal(size=shape)
        arrays.append(rng.integers(0, 50, shape).astype("int32") if integer else values.astype("f"))
    return arrays[0] if len(arrays) == 1 else arrays


def train(model: Any, callbacks: list[Any] = ()) -> None:  # type: ignore[assignment]
    """Train a few steps toward zero at a small rate, to show that training runs."""
    import tf_keras

    x = samples(model)
    outputs = model(x, training=False)
    y = [np.zeros(o.shape, "f") for o in outputs] if isinstance(outputs, list) else np.zeros(outputs.shape, "f")
    model.compile(tf_keras.optimizers.SGD(1e-5), "mse")
    model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=list(callbacks))


def kernels_with(model: Any, holds: Callable[[np.ndarray], bool]) -> str:
    """Count the weights of rank 2 or more that have a property: "n of m"."""
    weights = [weight for weight in model.get_weights() if weight.ndim >= 2]
    return f"{sum(map(holds, weights))} of {len(weights)}"


def is_sparse(weight: np.ndarray) -> bool:
    return bool(np.mean(weight == 0) >= SPARSITY - 0.02)


def is_clustered(weight: np.ndarray) -> bool:
    return len(np.unique(weight)) <= CLUSTERS


def by_name(model: Any, x: Any) -> Any:
    """Return inputs in the order of a LiteModel, which may differ from Keras's."""
    if not isinstance(x, list):
        return x
    return {tensor.name.split(":")[0]: array for tensor, array in zip(model.inputs, x, strict=True)}


def with_tfopt(build: Callable[[Any], Any]) -> dict[str, Any]:
    """Return one row for tfopt, from a Keras 3 model."""
    import keras

    import tfopt
    from tfopt import bridge
    from tfopt.tflite.settings import Export
    from tfopt.tflite.write.export import build_file as export

    keras.utils.set_random_seed(SEED)
    model = build(keras)
    zoo.randomize(model, SEED)
    row: dict[str, Any] = {"parameters": model.count_params()}
    plain = None

    def cross() -> str:
        nonlocal plain
        plain = bridge.to_tf_keras(model)
        x = samples(plain)
        ours, theirs = (_flat(side(x, training=False)) for side in (plain, model))
        worst = max(float(np.max(np.abs(a - b)) / max(1.0, np.abs(b).max())) for a, b in zip(ours, theirs, strict=True))
        back = bridge.to_keras(plain, like=model)
        same = all(np.array_equal(a, b) for a, b in zip(back.get_weights(), model.get_weights(), strict=True))
        return f"{worst:.0e}" if same else f"{worst:.0e}, but other weights on the way back"

    attempt(row, "bridge", cross)
    if plain is None:
        return row
    x = samples(plain)

    def compressed(stage: Any, holds: Callable[[np.ndarray], bool]) -> str:
        applied = stage.apply(model, steps=STEPS)
        train(applied, stage.callbacks())
        stripped = stage.strip(applied)
        flat = bridge.to_tf_keras(stripped)
        export(flat, Export(weights="float32", activations="float32"), x, stage.promises(flat), flat)
        return kernels_with(stripped, holds)

    attempt(row, "prune", lambda: compressed(tfopt.Prune(final_sparsity=SPARSITY, schedule="one-shot"), is_sparse))
    attempt(row, "cluster", lambda: compressed(tfopt.Cluster(number_of_clusters=CLUSTERS), is_clustered))

    def quantized() -> str:
        stage = tfopt.Quantize()
        applied = stage.apply(model, steps=STEPS)
        stage.calibrate(applied, x)
        train(applied)
        lite = export(applied, Export(allow_drift=True), x)
        return f"{len(lite.float_tensors())} float, {_error(lite, applied, x)}"

    attempt(row, "qat", quantized)

    def exported(weights: str, activations: str) -> str:
        settings = Export(weights=weights, activations=activations, allow_drift=True)  # type: ignore[arg-type]
        lite = export(plain, settings, x)
        floats = f"{len(lite.float_tensors())} float, " if settings.integer_only else ""
        return f"{floats}{len(lite.ops())} operators, {len(lite.data):,} bytes, {_error(lite, plain, x)}"

    def four_bits() -> str:
        stage = tfopt.PostTraining(weight_bits=4, rounding="nearest")
        applied = stage.apply(model, steps=STEPS)
        stage.calibrate(applied, x)
        lite = export(applied, Export(allow_drift=True), x)
        counts = Counter(weight.tensor.dtype for weight in lite.weights())
        return f"{counts['int4']} of {counts.total()} in 4 bits, {len(lite.data):,} bytes, {_error(lite, plain, x)}"

    attempt(row, "float", lambda: exported("float32", "float32"))
    attempt(row, "dynamic", lambda: exported("int8", "float32"))
    attempt(row, "int8", lambda: exported("int8", "int8"))
    attempt(row, "int16", lambda: exported("int8", "int16"))
    attempt(row, "int4", four_bits)
    return row


def _flat(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(output) for output in (outputs if isinstance(outputs, list) else [outputs])]


def _error(lite: Any, model: Any, x: Any) -> str:
    """Return the mean squared difference of file and model, relative to the variance of the model's output."""
    wanted, got = _flat(model(x, training=False)), _flat(lite.predict(by_name(model, x)))
    shapes = {output.shape: output for output in got}  # files may order outputs differently
    pairs = list(zip(wanted, got, strict=True)) if len(shapes) < len(got) else [(w, shapes[w.shape]) for w in wanted]
    share = max(float(np.mean((w - g) ** 2) / max(np.var(w), 1e-12)) for w, g in pairs)
    return f"error {share:.0e}"


def with_tfmot(build: Callable[[Any], Any]) -> dict[str, Any]:
    """Return one row for TF-MOT alone, from the tf_keras model."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from tfopt.tflite.read import LiteModel

    def fresh() -> Any:
        tf_keras.utils.set_random_seed(SEED)
        model = build(tf_keras)
        zoo.randomize(model, SEED)
        return model

    row: dict[str, Any] = {}

    def to_int8(model: Any) -> Any:
        x = samples(model)
        arrays = x if isinstance(x, list) else [x]
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.representative_dataset = lambda: ([a[i : i + 1] for a in arrays] for i in range(len(arrays[0])))
        return LiteModel(bytes(converter.convert()))

    def pruned() -> str:
        schedule = tfmot.sparsity.keras.ConstantSparsity(SPARSITY, begin_step=0, frequency=1)
        model = tfmot.sparsity.keras.prune_low_magnitude(fresh(), pruning_schedule=schedule)
        train(model, [tfmot.sparsity.keras.UpdatePruningStep()])
        return kernels_with(tfmot.sparsity.keras.strip_pruning(model), is_sparse)

    def clustered() -> str:
        init = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        model = tfmot.clustering.keras.cluster_weights(
            fresh(), number_of_clusters=CLUSTERS, cluster_centroids_init=init
        )
        train(model)
        return kernels_with(tfmot.clustering.keras.strip_clustering(model), is_clustered)

    def quantized() -> str:
        model = tfmot.quantization.keras.quantize_model(fresh())
        train(model)
        lite = to_int8(model)
        return f"{len(lite.float_tensors())} float, {_error(lite, model, samples(model))}"

    def int8() -> str:
        model = fresh()
        lite = to_int8(model)
        said = f"{len(lite.float_tensors())} float, {len(lite.ops())} operators, {len(lite.data):,} bytes"
        return f"{said}, {_error(lite, model, samples(model))}"

    attempt(row, "prune", pruned)
    attempt(row, "cluster", clustered)
    attempt(row, "qat", quantized)
    attempt(row, "int8", int8)
    return row


def builders(autoencoder: Path | None) -> dict[str, Callable[[Any], Any]]:
    own = {"Autoencoder ad01.h5": zoo.autoencoder(autoencoder)} if autoencoder else {}
    return {**zoo.APPLICATIONS, **zoo.ZOO, **kinds.KINDS, **own}


@click.command()
@click.option(
    "--autoencoder", type=click.Path(exists=True, path_type=Path), help="MLPerf Tiny's ad01.h5, as another row."
)
@click.option("--only", multiple=True, help="Only this row (can be repeated).")
@click.option("--again", is_flag=True, help="Also repeat jobs that benchmarks/results/coverage.json already has.")
@click.option("--side", type=click.Choice(["tfopt", "tfmot"]), help="Only this side.")
@click.option("--jobs", default=2, show_default=True, help="Processes to run at a time.")
@click.option("--limit", default=1800, show_default=True, help="Time limit for one job in seconds.")
@click.option("--job", nargs=2, hidden=True, help="Internal: print one row of one side as JSON.")
def main(
    autoencoder: Path | None,
    only: tuple[str, ...],
    again: bool,
    side: str | None,
    jobs: int,
    limit: int,
    job: tuple[str, str] | None,
) -> None:
    """Try every kind of model and write docs/coverage.md."""
    models = builders(autoencoder)
    if job:
        work = {"tfopt": with_tfopt, "tfmot": with_tfmot}[job[0]]
        click.echo("\n" + json.dumps(work(models[job[1]])))
        return
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    wanted = [(which, name) for name in only or models for which in ([side] if side else ("tfopt", "tfmot"))]
    todo = [(which, name) for which, name in wanted if again or name not in kept.get(which, {})]
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_in_a_process, which, name, autoencoder, limit): (which, name) for which, name in todo}
        for future in as_completed(running):
            which, name = running[future]
            kept.setdefault(which, {})[name] = future.result()
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
            click.echo(f"{which} {name}: {json.dumps(kept[which][name])}")
    write_page(kept, [name for name in models if name in kept.get("tfopt", {})])


def _in_a_process(side: str, name: str, autoencoder: Path | None, limit: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", side, name]
    command += ["--autoencoder", str(autoencoder)] if autoencoder else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": ["all"], "error": f"more than {limit} s"}
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not last[0].startswith("{"):
        return {"failed": ["all"], "error": one_line(done.stderr)[-300:]}
    return dict(json.loads(last[0]))


def write_page(kept: dict[str, dict[str, Any]], names: list[str]) -> None:
    """Write docs/coverage.md from the collected rows."""
    ours, theirs = kept.get("tfopt", {}), kept.get("tfmot", {})
    header = [
        "model", "parameters", "bridge", "prune", "TF-MOT", "cluster", "TF-MOT", "QAT", "TF-MOT",
        "float", "dynamic", "int8", "plain converter", "int8, int16 activations", "int4, int8 activations",
    ]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    failures = []
    for name in names:
        row, other = ours[name], theirs.get(name, {})
        cells = [name, f"{row.get('parameters', 0):,}", _cell(row, "bridge")]
        for column in ("prune", "cluster", "qat"):
            cells += [_cell(row, column), _cell(other, column)]
        cells += [_cell(row, column) for column in ("float", "dynamic", "int8")] + [_cell(other, "int8")]
        cells += [_cell(row, column) for column in ("int16", "int4")]
        lines.append(f"| {' | '.join(cells)} |")
        failures += [
            f"- {name}, {side}, {column}: {_reason(of, column)}"
            for side, of in (("tfopt", row), ("TF-MOT", other))
            for column in of.get("failed", [])
        ]
    summary = "; ".join(
        f"{words}: {_passed(ours, column, names)} with tfopt, {_passed(theirs, column, names)} without"
        for column, words in (("prune", "pruned"), ("cluster", "clustered"), ("qat", "QAT"), ("int8", "int8 file"))
    )
    text = _PROSE.format(
        channels=_channels(list(names)),
        summary=f"Of {len(names)} models, {summary}.",
        table="\n".join(lines),
        failures="\n".join(failures) or "Nothing failed.",
        versions=versions(),
        sparsity=f"{SPARSITY:.0%}",
        clusters=CLUSTERS,
        steps=STEPS,
        seed=SEED,
    )
    PAGE.write_text(text, encoding="utf-8")
    click.echo(f"wrote {PAGE.relative_to(PAGE.parents[1])}")


def _channels(names: list[str]) -> str:
    """Return the table of benchmarks/channels_coverage.py."""
    kept = RESULTS / "channels_coverage.json"
    rows = json.loads(kept.read_text()) if kept.is_file() else {}
    lines = ["| model | MACs | parameters | block | int8 file | seconds |", "|---|---|---|---|---|---|"]
    for name in (name for name in names if name in rows):
        row = rows[name]
        cells = [row.get(key, "") for key in ("macs", "parameters", "block", "file", "seconds")]
        lines.append(
            f"| {name} | {' | '.join(map(str, cells))} |" if "error" not in row else f"| {name} | **fails** |||||"
        )
    missing = [name for name in names if name not in rows]
    return "\n".join([*lines, *(["", f"Not run yet: {', '.join(missing)}."] if missing else [])])


def _passed(rows: dict[str, Any], column: str, names: list[str]) -> int:
    return sum(name in rows and _cell(rows[name], column) not in ("", "**fails**") for name in names)


def _cell(row: dict[str, Any], column: str) -> str:
    failed = row.get("failed", [])
    return "**fails**" if column in failed or "all" in failed else str(row.get(column, ""))


def _reason(row: dict[str, Any], column: str) -> str:
    return str(row.get("error", "")) if column == "all" else str(row.get(column, "")).replace("|", "/")


_PROSE = """# What works

Each technique, and export to a file, tried on every family of `keras.applications` and on other kinds of models.
Written by `python benchmarks/coverage.py --autoencoder ad01.h5`; do not edit.

Each column of tfopt is followed by the same attempt with TF-MOT (or TensorFlow's converter) alone. tfopt gets the
Keras 3 model; TF-MOT gets the same architecture in tf_keras, since it rejects every Keras 3 model. The families have
full depth, inputs of 32 to 75 pixels, ten classes, random weights and random BatchNormalization statistics. A channel
of such a model may hardly depend on the inputs, so limits of noise are off (`allow_drift`): the errors are shown.

- **bridge**: the largest difference between the outputs of the Keras 3 model and its flat tf_keras model, relative to
  the largest output. The weights returned to Keras 3 bit for bit.
- **prune**, **cluster**: how many weights of rank 2 or more have {sparsity} zeros, or at most {clusters} distinct
  values, after {steps} training steps. The biases of GRU and attention have rank 2 too and are not pruned; tfopt leaves
  depthwise kernels alone by default. tfopt also verified its promises in a `.tflite`; TF-MOT was not asked for a file.
- **QAT**: {steps} steps of quantization-aware training; the number of float tensors in the int8 file, and its error
  (mean squared difference from the trained model's outputs, as a fraction of their variance).
- **float**, **dynamic**, **int8** and what follows: files made without training, with the same error. *dynamic* has
  int8 weights and float activations. *int4*: `PostTraining(weight_bits=4, rounding="nearest")`; how many of the
  weights have 4 bits, since not every operator takes them. An empty cell was not tried.

{summary}

{table}

## Half of the multiplications

`PruneChannels(epochs=0, final_ratio=0.5, attention="both", reconstruct=False)` on the same models, without training:
the smaller model was compared with the larger one with zeros in place of the channels, on its inputs, and differs by
less than 1e-5 of the largest output; it returned to Keras 3 and was exported as int8. *Block*: channels stay in
multiples of 8, or of 1 where the model is too narrow for that. Written by `python benchmarks/channels_coverage.py`.

{channels}

## What fails and why

{failures}

Seed {seed}. {versions}.
"""


if __name__ == "__main__":
    main()
