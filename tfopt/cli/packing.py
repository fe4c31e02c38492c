"""`tfopt pack | unpack`: entropy-code a .tflite, and decode it."""

from pathlib import Path

import click

from tfopt.cli.command import say
from tfopt.errors import OutputError

FILE = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@FILE
@click.option("--out", type=click.Path(path_type=Path), help="The packed file (default: FILE.zst or FILE.gz).")
@click.option("--overwrite", is_flag=True, help="Replace a file of that name.")
def pack(file: Path, out: Path | None, overwrite: bool) -> None:
    """Entropy-code a .tflite with zstd or gzip.

    Whichever gives fewer bytes is used.

    \b
        tfopt pack saved_models/photos/model.tflite

    Every command also accepts the packed file; `tfopt unpack`, `zstd -d` or `gunzip` restores the identical .tflite.
    """
    from tfopt.base import packing
    from tfopt.base.files import write_atomically
    from tfopt.evaluate.inspect import weight_bits
    from tfopt.tflite.read import LiteModel

    lite = LiteModel(file)
    packed = packing.pack(lite.data)
    out = out or file.with_name(file.name + packed.suffix)
    _require_free(out, overwrite)
    write_atomically(out, packed.data)
    say(f"{file}: {lite.size:,} bytes; {out}: {len(packed.data):,} bytes ({len(packed.data) / lite.size:.1%})")
    say(weight_bits(lite).describe(len(packed.data)))


@click.command()
@FILE
@click.option("--out", type=click.Path(path_type=Path), help="The .tflite (default: FILE without its last suffix).")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def unpack(file: Path, out: Path | None, overwrite: bool) -> None:
    """Restore the .tflite that `tfopt pack` packed.

    It is the same file, byte for byte.
    """
    from tfopt.base.files import write_atomically
    from tfopt.tflite.read import LiteModel

    lite = LiteModel(file)
    out = out or file.with_suffix("" if file.suffix in (".gz", ".zst") else ".tflite")
    _require_free(out, overwrite)
    write_atomically(out, lite.data)
    say(f"wrote {out}: {lite.size:,} bytes")


def _require_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; name another file with --out, or replace it with --overwrite.")
