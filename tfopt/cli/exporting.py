"""`tfopt export`: convert a Keras model file to any form of .tflite."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfopt.base import native
from tfopt.cli.command import DATA_SOURCES, allow_drift_option, allow_unsafe_option, print_table, say, shared_options
from tfopt.errors import DataError, ModelError, OutputError, PromiseError

if TYPE_CHECKING:
    from tfopt.tflite.prove.types import Contents
    from tfopt.tflite.settings import Export

# Samples for a first conversion, which shows whether all operators have integer forms before the long calibration.
TRIED = 2


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .tflite to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--weights",
    type=click.Choice(("float32", "float16", "int8", "int4")),
    default="int8",
    show_default=True,
    help="int4 applies where LiteRT has operators for it; other weights are int8.",
)
@click.option(
    "--activations",
    type=click.Choice(("float32", "int8", "int16")),
    help="int8 and int16 need --data (default: int8 with integer weights, otherwise float32).",
)
@click.option("--weight-only", is_flag=True, help="Store integer weights but compute in float.")
@click.option(
    "--io",
    type=click.Choice(("float32", "int8", "uint8", "int16")),
    help="Type of inputs and outputs (default: that of the activations).",
)
@click.option("--sparse", is_flag=True, help="Leave zeros out of the file where LiteRT can still run it.")
@click.option(
    "--data",
    help=f"{DATA_SOURCES}; labels are not needed. Its training part gives the activation ranges; its class names are "
    "written into the file.",
)
@click.option(
    "--calibration-samples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Number of training samples that give the activation ranges.",
)
@click.option(
    "--activation-ranges",
    type=click.Choice(("max", "mse")),
    default="max",
    show_default=True,
    help="Range of int8 activations: up to the extremes over those samples, or the range of least squared error.",
)
@click.option(
    "--batch",
    type=click.Choice(("static", "dynamic")),
    default="static",
    show_default=True,
    help="static: one sample per invocation, fewest operators; dynamic: any number of samples.",
)
@click.option("--compact/--no-compact", default=True, show_default=True, help="Leave out the names of inner tensors.")
@click.option(
    "--max-noise",
    type=click.FloatRange(min=0, min_open=True),
    help="Most noise of an output, as a share of its variance; the fewest operators of an integer file stay in float.",
)
@click.option(
    "--mixed/--no-mixed",
    default=True,
    show_default=True,
    help="Leave operators in float that have no integer form, or where integers would not compute what MODEL does.",
)
@allow_drift_option
@allow_unsafe_option
@shared_options
def export(
    model: Path,
    out: Path,
    overwrite: bool,
    data: str | None,
    preprocessing: str | None,
    limit: int | None,
    allow_unsafe: bool,
    **options: Any,
) -> None:
    """Convert MODEL, any Keras model file, to a .tflite.

    The table shows what the file contains.

    \b
        tfopt export model.keras --out model.tflite --data photos/                      # int8
        tfopt export model.keras --out model.tflite --data photos/ --weights int4 --io uint8
        tfopt export model.keras --out model.tflite --data photos/ --activations int16
        tfopt export model.keras --out model.tflite --activations float32               # dynamic range
        tfopt export model.keras --out model.tflite --weights int4 --weight-only
        tfopt export model.keras --out model.tflite --weights float16

    If the file would not hold what the options promise, the exit code is 1 and nothing is written. If it does not
    compute what MODEL does, the exit code is 1 and it is written as NAME.failed.tflite.
    """
    from tfopt.tflite.settings import Export

    if not model.exists():
        raise ModelError(f"{model}: no such file or folder. Check the path of the model.")
    if out.suffix != ".tflite" and not out.is_dir():
        raise OutputError(f"Expected a file name that ends in .tflite after --out, got {out}.")
    integers = options["weights"] in ("int8", "int4") and not options["weight_only"]
    options["activations"] = options["activations"] or ("int8" if integers else "float32")
    settings = Export(**options)
    if out.is_dir() or (out.exists() and not overwrite):
        if out.is_dir():
            raise OutputError(f"{out} is a folder; name a file with --out.")
        raise OutputError(f"{out} exists; replace it with --overwrite, or name another file with --out.")
    held, notes = export_file(model, out, settings, data, preprocessing, limit, allow_unsafe)
    print_table(held.table(f"{out}: {_in_words(settings)}"))
    for note in notes:
        say(f"note: {note}")
    say(f"wrote {out}")


def export_file(
    model: Path,
    out: Path,
    settings: "Export",
    data: str | None = None,
    preprocessing: str | None = None,
    limit: int | None = None,
    allow_unsafe: bool = False,
) -> tuple["Contents", tuple[str, ...]]:
    """Convert the model file `model`, write it to `out`, and return its contents and notes; see `export.build`."""
    from tfopt.base.stderr import load_tensorflow_quietly

    native.start()
    load_tensorflow_quietly()
    from tfopt.data.for_model import representative_for
    from tfopt.models.sources import model_from
    from tfopt.run.data_warnings import doubts
    from tfopt.stages.quantize.trained import is_quantization_aware
    from tfopt.tflite.prove.types import contents
    from tfopt.tflite.write.export import build_file, write_proven

    loaded = model_from(model, allow_unsafe=allow_unsafe)
    if settings.integer_only and not data and not is_quantization_aware(loaded):
        raise DataError(
            f"{settings.activations} activations need training samples to find their ranges: pass --data, or choose "
            "--activations float32."
        )
    source, fed = None, ""
    if data:
        source, fed = representative_for(loaded, data, preprocessing=preprocessing, limit=limit, beside=[model])
    if source is not None and settings.integer_only and settings.calibration_samples > TRIED:
        build_file(
            loaded, dataclasses.replace(settings, calibration_samples=TRIED, max_noise=None), source, proven=False
        )
    said = [*([f"samples: {fed}"] if fed else []), *doubts(loaded, source)]
    try:
        lite = write_proven(out, loaded, settings, source)
    except PromiseError:
        for note in said:  # they may explain it
            say(f"note: {note}")
        raise
    return contents(lite), (*said, *lite.notes)


def _in_words(settings: "Export") -> str:
    kind = " (weights only)" if settings.weight_only else ""
    sparse = ", sparse" if settings.sparse else ""
    return f"{settings.weights} weights{kind}{sparse}, {settings.activations} activations"
