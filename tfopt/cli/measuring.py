"""`tfopt sensitivity`: measure what fewer bits cost, kernel by kernel."""

import sys
from pathlib import Path
from typing import Any

import click

from tfopt.cli.command import DATA_SOURCES, allow_unsafe_option, print_table, say, shared_options


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help=f"{DATA_SOURCES}; its validation part is used.")
@click.option(
    "--bits", type=click.IntRange(2, 8), multiple=True, default=(8, 4, 2), show_default=True, help="Can be repeated."
)
@click.option("--weight-steps", type=click.Choice(["max", "mse", "octav"]), default="mse", show_default=True,
              help="How to choose the steps between quantized weights.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=2000, show_default=True,
              help="Maximum number of validation samples.")  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), help="Also write a plot to this file (.png, .svg, .pdf).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
@allow_unsafe_option
@shared_options
def sensitivity(
    model: Path,
    data: str,
    bits: tuple[int, ...],
    weight_steps: str,
    samples: int,
    plot: Path | None,
    json_file: Path | None,
    allow_unsafe: bool,
    preprocessing: str | None,
    limit: int | None,
) -> None:
    """Measure what fewer bits cost, kernel by kernel.

    One kernel of the Keras MODEL at a time is quantized; the table shows the loss of accuracy and of signal.

    \b
        tfopt sensitivity model.keras --data photos/ --plot sensitivity.png
    """
    from tfopt.base.plots import require_format
    from tfopt.base.stderr import load_tensorflow_quietly

    if plot:
        require_format(plot)
    load_tensorflow_quietly()
    from tfopt.base.files import write_atomically
    from tfopt.base.finite_json import json_text
    from tfopt.data.for_model import data_for
    from tfopt.models.sources import model_from
    from tfopt.search import sensitivity

    loaded = model_from(model, allow_unsafe=allow_unsafe)
    sensitivity.require_measurable(loaded)
    dataset = data_for(loaded, data, preprocessing=preprocessing, limit=limit, beside=[model])
    in_log = not sys.stderr.isatty()  # where click would print the label alone
    with click.progressbar(label="kernels at fewer bits", file=sys.stderr, length=1, hidden=in_log) as bar:
        found = sensitivity.sensitivity(
            loaded,
            dataset,
            bits=bits,
            weight_steps=weight_steps,
            samples=samples,
            progress=lambda done, all_: _show(bar, done, all_),
        )
    if json_file:
        write_atomically(json_file, json_text(found.to_dict()))
    print_table(found.table())
    if plot:
        say(f"wrote {found.plot(plot)}")


def _show(bar: Any, done: int, all_: int) -> None:
    bar.length = all_
    bar.update(done - bar.pos)
