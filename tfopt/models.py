"""Model files: told apart by what is in them, loaded by the Keras that wrote them, written atomically."""

import contextlib
import functools
import importlib
import json
import os
import re
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfopt import legacy
from tfopt.errors import ModelError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TFLITE = b"TFL3"  # at bytes 4 to 8

_LAMBDA_CODE = re.compile(rb'\\*"(function|output_shape|mask)_type\\*":\s*\\*"lambda')
_MISSING = re.compile(r"(?:Could not locate|Unknown) ((?:class|function|layer|object):? '[^']+')")


def kind(path: str | os.PathLike[str]) -> str:
    """What `path` holds, by its content, whatever its name.

    "keras3" or "tf_keras": a model file or folder that this Keras loads; "saved_model": a SavedModel without
    Keras layers; "weights": weights without a model; "tflite". Raises ModelError where nothing is there, or
    something else, or only part of a file.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_kind(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file or folder; check the path") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head == _HDF5:
        return _hdf5_kind(path)
    if head[4:8] == _TFLITE:
        return "tflite"
    what = "is empty" if not head else "is no model file that tfopt knows"
    raise ModelError(f"{path} {what}; expected a .keras file, an HDF5 file, a SavedModel folder or a .tflite file")


def load_model(path: str | os.PathLike[str]) -> Any:
    """The Keras 3 or tf_keras model in `path`: a .keras or HDF5 file, or a SavedModel of tf_keras.

    Compiled as it was saved; not compiled where its settings cannot be restored. Code in the file (a Lambda
    layer with a Python function) is never run. Raises ModelError, saying what to do, for all else.
    """
    path, found = Path(path), kind(path)
    if found == "tflite":
        raise ModelError(
            f"{path} is a .tflite file, which holds no Keras model: use `tfopt inspect` or `tfopt check` on "
            "it, and give the Keras model it was made from here"
        )
    if found == "weights":
        raise ModelError(
            f"{path} holds weights only, no model: build the model in Python, call load_weights and save it whole"
        )
    if found == "saved_model":
        raise ModelError(
            f"{path} is a SavedModel without Keras layers (no keras_metadata.pb), so its layers cannot be "
            "compressed: give the model as a .keras file, or save it with tf_keras"
        )
    return _load(path, found)


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes `model`, of either Keras, to `path` in the `.keras` format of its own kind.

    The file appears whole or not at all. Raises ModelError for a name that does not end in `.keras`, for a
    folder that does not exist and for a model that cannot be saved.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ModelError(f"expected a file name that ends in .keras, got {path.name}")
    if not path.parent.is_dir():
        raise ModelError(f"{path.parent}: no such folder; make it first")
    # Not made by tempfile, which would leave the file readable by its owner alone.
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.keras")
    try:
        model.save(temporary)
        temporary.replace(path)
    except Exception as error:
        raise ModelError(f"the model '{getattr(model, 'name', '?')}' cannot be saved: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            version = json.loads(archive.read("metadata.json"))["keras_version"]
    except KeyError as error:
        raise ModelError(f"{path} is a zip file but no .keras file: it has no metadata.json") from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise _damaged(path, error) from error
    if broken:
        raise _damaged(path, broken)
    return _of_version(version)


def _hdf5_kind(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
    except OSError as error:
        raise _damaged(path, error) from error
    if config is None:
        return "weights"
    if isinstance(config, bytes):
        config = config.decode()
    if version is not None:
        return _of_version(version)
    # Keras 1 and 2 say batch_input_shape where Keras 3 says batch_shape
    return "keras3" if '"batch_shape"' in config else "tf_keras"


def _folder_kind(path: Path) -> str:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"{path} is a folder without saved_model.pb; give a .keras file, an HDF5 file or a SavedModel folder"
        )
    return "tf_keras" if (path / "keras_metadata.pb").is_file() else "saved_model"


def _of_version(version: Any) -> str:
    text = version.decode() if isinstance(version, bytes) else str(version)
    return "tf_keras" if text[:2] in ("1.", "2.") else "keras3"


def _damaged(path: Path, why: object) -> ModelError:
    return ModelError(f"{path} is damaged or incomplete ({why}); copy or save it again")


def _refuse_lambda_code(path: Path) -> None:
    """Raises ModelError for a Lambda with Python code where tf_keras would run it: all but its .keras files."""
    if path.is_dir():
        config = (path / "keras_metadata.pb").read_bytes()
    elif not zipfile.is_zipfile(path):
        import h5py

        with h5py.File(path, "r") as file:
            value = file.attrs["model_config"]
        config = value if isinstance(value, bytes) else value.encode()
    else:
        return
    if _LAMBDA_CODE.search(config):
        raise ModelError(_lambda_message(path))


def _load(path: Path, found: str) -> Any:
    if found == "keras3":
        import keras

        # Keras 3 writes these short names into HDF5 files and cannot read them back.
        short = {name: keras.losses.get(name) for name in ("mse", "mae", "mape", "msle", "bce", "kld")}
        loader: Any = functools.partial(keras.models.load_model, custom_objects=short)
    else:
        from .bridge import activations

        loader = legacy.tf_keras().models.load_model
        activations.registered()  # models that crossed the bridge may name them
        _refuse_lambda_code(path)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_named_by_content(path))
        stack.enter_context(_quiet())
        try:
            return loader(source, compile=True)
        except Exception:
            try:
                return loader(source, compile=False)
            except Exception as error:
                raise _cannot_load(path, error) from error


def _cannot_load(path: Path, error: Exception) -> ModelError:
    text = " ".join(str(error).split())
    if "ambda" in text:
        return ModelError(_lambda_message(path))
    missing = _MISSING.search(text)
    if missing:
        return ModelError(
            f"{path} needs {missing[1]}, which the file does not hold: load it in Python with "
            "custom_objects, replace what is custom by built-in layers, and pass the model itself"
        )
    return ModelError(f"{path} cannot be loaded ({text[:300]}); save it again with the Keras installed here")


def _lambda_message(path: Path) -> str:
    return (
        f"{path} holds a Lambda layer with Python code, which tfopt does not run from files: "
        "replace it by a layer (Rescaling, Activation ...) and save the model again"
    )


@contextlib.contextmanager
def _named_by_content(path: Path) -> Iterator[str]:
    """A path that ends as both Kerases expect of the content: they choose their reader by the ending."""
    if path.is_dir():
        yield str(path)
        return
    ending = ".keras" if zipfile.is_zipfile(path) else ".h5"
    if path.suffix == ending:
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{ending}"
        link.symlink_to(path.resolve())
        yield str(link)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings about compile settings and optimizer state that could not be restored."""
    logging = importlib.import_module("absl.logging")

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
