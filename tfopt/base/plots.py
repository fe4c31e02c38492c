"""Plots written to files."""

import io
from pathlib import Path
from typing import Any

from tfopt.base.files import write_atomically
from tfopt.errors import OutputError


def require_format(path: str | Path) -> None:
    """Raise OutputError if no plot can be written in the format that the suffix of `path` names."""
    from matplotlib.backend_bases import FigureCanvasBase

    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in FigureCanvasBase.get_supported_filetypes():
        raise OutputError(
            f"Cannot draw {path}: '{suffix}' is not a plot format. Name a file that ends in .png, .svg or .pdf."
        )


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a Matplotlib figure atomically; the suffix of `path` selects the format.

    Args:
        figure: a `matplotlib.figure.Figure`.
        path: the file; one of that name is replaced.

    Returns:
        The path.

    Raises:
        OutputError: the format is unknown, or the file cannot be written.
    """
    require_format(path)
    image = io.BytesIO()
    figure.savefig(image, format=Path(path).suffix.lstrip(".").lower(), dpi=150)
    return write_atomically(path, image.getvalue())
