"""Detection of anything in a model file that would run code or reach beyond it, before any loader sees the file.

`allowed` lists what a file may name; `config` checks configurations, `saved_model` graphs. Anything not listed is
refused, at every depth.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfopt.errors import ModelError
from tfopt.models.safety.config import Scan, parsed
from tfopt.models.safety.saved_model import OTHER_FORMS, scan_content, scan_graph, scan_metadata

__all__ = ["Findings", "scan_file", "scan_graph"]

# Older loaders unpickle the content of such a member.
_PICKLED_WEIGHTS = "model.weights.npz"


@dataclass(frozen=True)
class Findings:
    """The results of scanning a model file.

    Attributes:
        code: what would run code or reach beyond the file, each with its path in the model; empty for a harmless file.
        compiles: whether its compile settings name only Keras's own objects and the caller's.
        vouched: the caller's classes and functions that it uses, by the names by which Keras looks them up.
    """

    code: tuple[str, ...]
    compiles: bool
    vouched: Mapping[str, Any]


def scan_file(path: Path, kind: str, custom_objects: Mapping[str, Any]) -> Findings:
    """Scan the model file or folder `path`, of `kind` "keras3" or "tf_keras".

    Classes and functions that are registered in that Keras or given in `custom_objects` are trusted and not reported.

    Raises:
        ModelError: the file cannot be read.
    """
    scan = Scan(kind, custom_objects, revives=path.is_dir())
    compiling = Scan(kind, custom_objects)
    code: list[str] = []
    if path.is_dir():
        code += scan_graph(path)
        scan_metadata(path, scan, compiling)
    else:
        if zipfile.is_zipfile(path):
            config, training = _archive(path, code)
        else:
            config, training = (parsed(text, f"The configuration in {path}") for text in _attributes(path))
        scan.read(config)
        compiling.read(training)
    return Findings((*code, *scan.found), not compiling.found, {**compiling.vouched, **scan.vouched})


def _archive(path: Path, code: list[str]) -> tuple[Any, Any]:
    """Return the configuration in a .keras file and its compile settings; add other findings to `code`."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = parsed(archive.read("config.json"), f"The configuration in {path}")
            for member in archive.namelist():
                name = member.rpartition("/")[2]
                if member == _PICKLED_WEIGHTS:
                    code.append(f"weights in the file '{member}', which may hold pickled Python code")
                elif name in OTHER_FORMS:
                    code.append(f"the graph '{member}'")
                elif name == "saved_model.pb":
                    code += scan_content(archive.read(member), f"{member} in {path}")
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{path} is damaged or incomplete ({error}). Copy or save it again.") from error
    return config, config.pop("compile_config", None) if isinstance(config, dict) else None


def _attributes(path: Path) -> tuple[str | bytes, str | bytes]:
    """Return the configuration of an HDF5 file and its compile settings, as JSON."""
    import h5py

    with h5py.File(path, "r") as file:
        found = (file.attrs.get("model_config"), file.attrs.get("training_config"))
    for each in found:
        if not isinstance(each, str | bytes | None):
            raise ModelError(f"{path} holds a configuration that is not text. Copy or save the file again.")
    return found[0] or "null", found[1] or "null"
