"""A model as a `.keras` file of its own kind."""

import os
import uuid
from pathlib import Path
from typing import Any

from tfopt.errors import ModelError


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes `model`, of either Keras, to `path` in the `.keras` format of its own kind.

    The file appears whole or not at all. Raises ModelError for a name that does not end in `.keras`, for a
    folder that does not exist and for a model that cannot be saved.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ModelError(f"Expected a file name that ends in .keras, got {path.name}.")
    if not path.parent.is_dir():
        raise ModelError(f"{path.parent}: no such folder; make it first.")
    # Not made by tempfile, which would leave the file readable by its owner alone.
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.keras")
    try:
        model.save(temporary)
        temporary.replace(path)
    except Exception as error:
        raise ModelError(f"The model '{getattr(model, 'name', '?')}' cannot be saved: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
