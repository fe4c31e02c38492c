"""`tfopt check | inspect | compare | verify | bench | rank`: examine model files, and preview a recipe."""

import dataclasses
from pathlib import Path

import click

from tfopt.cli.command import DATA_SOURCES, allow_unsafe_option, print_table, say, shared_options
from tfopt.cli.run_options import speedup_option
from tfopt.cli.running import load_recipe, sped_up
from tfopt.cli.shipped import RecipeName
from tfopt.errors import PromiseError, RecipeError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=RecipeName(path_type=Path),
    help="A .py that defines `recipe`, or a recipe.json (default: prune, cluster, quantize).",
)
@click.option(
    "--convert/--no-convert",
    default=True,
    show_default=True,
    help="Also convert to .tflite, with random calibration data, to see what the file contains.",
)
@speedup_option
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the result to this file.")
@allow_unsafe_option
def check(
    model: Path, recipe: Path | None, convert: bool, speedup: float | None, json_file: Path | None, allow_unsafe: bool
) -> None:
    """Show what a recipe will do to MODEL, without training.

    The table has a row for each layer, up to the operators of the .tflite.

    \b
        tfopt check model.keras
        tfopt check model.keras --recipe recipes/deep_compression.py
        tfopt check model.keras --recipe faster --speedup 2

    The exit code is 1 if the recipe cannot run.
    """
    from tfopt.base.stderr import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.base.files import write_atomically
    from tfopt.models.sources import model_from
    from tfopt.run.check import check as check_model

    if speedup and not recipe:
        raise RecipeError("--speedup needs a recipe that prunes channels. Give --recipe faster or prune_channels.")
    given = load_recipe(recipe)[0] if recipe else None
    loaded = model_from(model, allow_unsafe=allow_unsafe)
    found = check_model(loaded, sped_up(given, given, speedup) if given else None, convert=convert)
    if json_file:
        write_atomically(json_file, found.to_json())
    print_table(found.table())
    for text in found.notes:
        say(f"note: {text}")
    for text in found.problems:
        say(f"problem: {text}", err=True)
    if not found.ok:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@allow_unsafe_option
def inspect(file: Path, allow_unsafe: bool) -> None:
    """Show what FILE contains, by layer or operator.

    The table lists parameters, sparsity, distinct values and dtypes; the lines above it, the bytes.
    """
    from tfopt.base.stderr import load_tensorflow_quietly
    from tfopt.evaluate.inspect import inspect_file

    load_tensorflow_quietly()

    print_table(inspect_file(file, allow_unsafe=allow_unsafe).table())


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--data", required=True, help=f"{DATA_SOURCES}; its test part is used.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads for LiteRT.")
@allow_unsafe_option
@shared_options
def compare(
    a: Path, b: Path, data: str, threads: int, allow_unsafe: bool, preprocessing: str | None, limit: int | None
) -> None:
    """Compare two model files on the same test set.

    The table lists accuracy, agreement, bytes and latency.

    A Keras model is converted to a float .tflite and measured as that.
    """
    from tfopt.base.stderr import load_tensorflow_quietly
    from tfopt.evaluate.compare import compare_files

    load_tensorflow_quietly()

    table = compare_files(
        a, b, data, threads=threads, preprocessing=preprocessing, limit=limit, allow_unsafe=allow_unsafe
    )
    print_table(table)


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--data", required=True, help=f"{DATA_SOURCES}; its training part is used.")
@click.option("--feature-cache", type=click.Path(path_type=Path),
              help="Folder to keep features in for later runs (default: in memory).")  # fmt: skip
@allow_unsafe_option
@shared_options
def rank(
    sources: tuple[str, ...],
    data: str,
    feature_cache: Path | None,
    allow_unsafe: bool,
    preprocessing: str | None,
    limit: int | None,
) -> None:
    """Rank SOURCES to transfer from, without training.

    The best are those whose features predict the labels best.

    \b
        tfopt rank mobilenet.keras resnet.keras hub_module/ --data photos/

    Sources are model files, SavedModels or TF-Hub handles. LogME and H-score: higher is better.
    """
    from tfopt.base.stderr import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.transfer.ranking import rank_sources

    ranking = rank_sources(
        sources, data, preprocessing=preprocessing, limit=limit, cache=feature_cache, allow_unsafe=allow_unsafe
    )
    print_table(ranking.table())


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", required=True, help=f"{DATA_SOURCES}; its test part is used.")
@click.option(
    "--least-db",
    type=float,
    default=10.0,
    show_default=True,
    help="Signal-to-quantization-noise ratio, in decibels, below which a layer counts as bad.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Fail with exit code 1 if the file and the model agree on the class of a smaller share of the test samples.",
)
@allow_unsafe_option
@shared_options
def verify(
    model: Path,
    file: Path,
    data: str,
    least_db: float,
    min_agreement: float | None,
    allow_unsafe: bool,
    preprocessing: str | None,
    limit: int | None,
) -> None:
    """Compare the .tflite FILE with its Keras MODEL.

    Outputs, accuracy and the signal in every layer are compared.

    \b
        tfopt verify saved_models/photos/model.keras saved_models/photos/model.tflite --data photos/

    The table lists the signal-to-quantization-noise ratio of each layer; the line below names the first bad layer. The
    exit code is 1 if the outputs differ too much, if no layer is good, or if the file only guesses.
    """
    from tfopt.base.stderr import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.evaluate.verify import verify_file

    found = verify_file(
        model, file, data, preprocessing=preprocessing, limit=limit, least_db=least_db, allow_unsafe=allow_unsafe
    )
    print_table(found.table())
    for line in found.lines():
        say(line)
    problems = list(found.problems)
    if min_agreement is not None:
        if found.agreement is None:
            raise RecipeError("--min-agreement needs a classification task.")
        if found.agreement < min_agreement:
            problems.append(
                f"the file and the model agree on {found.agreement:.4f} of the samples, below --min-agreement "
                f"{min_agreement:g}"
            )
    if problems:
        raise PromiseError(f"The file does not compute what the model does: {'; '.join(problems)}.")


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--data",
    help=f"{DATA_SOURCES}; its test part is used (default: accuracy is not measured).",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads for LiteRT.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds of 50 runs of each file."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
@allow_unsafe_option
@shared_options
def bench(
    files: tuple[Path, ...],
    data: str | None,
    threads: int,
    rounds: int,
    json_file: Path | None,
    allow_unsafe: bool,
    preprocessing: str | None,
    limit: int | None,
) -> None:
    """Benchmark model FILES: latency, memory, accuracy, bytes.

    They run in turn, so that background load affects all of them alike.

    \b
        tfopt bench float.tflite int8.tflite model.tflite.zst --data photos/ --threads 2

    A Keras model is converted to a float .tflite and measured as that.
    """
    from tfopt.base.stderr import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.base.files import write_atomically
    from tfopt.base.finite_json import json_text
    from tfopt.evaluate.bench import benchmark_files, benchmark_table

    measured = benchmark_files(
        files,
        data,
        threads=threads,
        preprocessing=preprocessing,
        limit=limit,
        rounds=rounds,
        allow_unsafe=allow_unsafe,
    )
    if json_file:
        write_atomically(json_file, json_text([dataclasses.asdict(row) for row in measured]))
    print_table(benchmark_table(measured, threads))
