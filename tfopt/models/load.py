"""Loading of model files by the Keras that wrote them. Code in a file never runs unless the user allows it."""

import contextlib
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfopt import bridge
from tfopt.base import keras_compat, late_classes, sandbox
from tfopt.base.stderr import warnings_held
from tfopt.errors import ModelError
from tfopt.models.content import kind
from tfopt.models.estimators import from_estimator, is_estimator
from tfopt.models.safety import scan_file, scan_graph
from tfopt.models.windows import WEIGHTS, weights_of, with_slashes

_MOST_NAMED = 5  # findings listed in a message
_MISSING = re.compile(r"(?:Could not locate|Unknown) ((?:class|function|layer|object):? '[^']+')")


class UnsafeFileError(ModelError):
    """A file contains code that tfopt does not run."""


def load_model(
    path: Any,
    *,
    like: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
    allow_unsafe: bool = False,
) -> Any:
    """Load the Keras 3 or tf_keras model in `path`: a .keras or HDF5 file, or a SavedModel of tf_keras.

    The model is compiled as it was saved, or not compiled if its settings cannot be restored.

    Args:
        path: identified by content, not by name. Or a fitted estimator of scikit-learn: a linear model, `LinearSVC`,
            `MLPClassifier` or `MLPRegressor`, also as the end of a `Pipeline` of `StandardScaler`s.
        like: a model of either Keras with the architecture of the one in the file. Only the weights are read, from a
            weights-only file or a whole one, whose configuration and code are not. `like` is not changed; the result is
            of the same Keras.
        custom_objects: classes and functions by name that the file refers to, as in Keras. Those registered with
            `register_keras_serializable` need not be given.
        allow_unsafe: let the file run Python code (Lambda layers, pickled functions). Only for files that you trust
            like a program.

    Raises:
        ModelError: the file is damaged or not a model; the message says what to do.
        UnsafeFileError: the file holds code, named by its path in the model; it is a `ModelError`.

    Examples:
        >>> model.save("model.keras")
        >>> again = tfopt.load_model("model.keras")
        >>> again.count_params() == model.count_params()
        True

        Weights alone go into a copy of a model of the same architecture:

        >>> model.save_weights("model.weights.h5")
        >>> again = tfopt.load_model("model.weights.h5", like=model)
    """
    if is_estimator(path):
        return from_estimator(path)
    if not isinstance(path, str | os.PathLike):
        raise ModelError(f"Expected the path of a model file, got a {type(path).__name__}.")
    path, found = Path(path), kind(path)
    if found == "tflite":
        raise ModelError(
            f"{path} is a .tflite file, which holds no Keras model: use `tfopt inspect` on it, and give the "
            "Keras model it was made from here."
        )
    if like is not None:
        return _with_weights_of(path, found, like)
    if found == "saved_model":
        raise ModelError(
            f"{path} is a SavedModel without Keras layers (no keras_metadata.pb), so load_model cannot "
            "restore them: give the folder to `tfopt.optimize` or a command, which rebuild the layers from its graph."
        )
    if found == "weights":
        raise ModelError(
            f"{path} holds weights only, no model: build the model in Python and pass it, load_model(path, "
            "like=model), or save it whole."
        )
    given = dict(custom_objects or {})
    if allow_unsafe:
        hub_layer = {"KerasLayer": keras_compat.hub().KerasLayer} if found == "tf_keras" else {}
        return _load(path, found, {**hub_layer, **given}, safe=False)
    sandbox.start()
    if found == "tf_keras":
        bridge.register_classes()  # models that crossed the bridge may refer to them
    findings = scan_file(path, found, given)
    if findings.code:
        raise UnsafeFileError(_refusal(path, findings.code))
    if not findings.vouched:  # the sandbox lacks the caller's classes and functions
        sandbox.try_first("tfopt.models.trial:load", path)
    return _load(path, found, {**given, **findings.vouched}, safe=True, compiled=findings.compiles)


def check_graph(path: Path, tags: Sequence[str] | None = None) -> None:
    """Raise ModelError for a SavedModel whose graph does more than compute, or that cannot be loaded safely.

    Call this before `tf.saved_model.load(path, tags)`.
    """
    if code := scan_graph(path):
        raise ModelError(
            f"{path} contains code that tfopt does not run from files: {_listed(code)}. Save the model again without "
            "it."
        )
    sandbox.try_first("tfopt.models.trial:load_graph", path, tags=None if tags is None else list(tags))


def _listed(code: Sequence[str]) -> str:
    more = f"; and {len(code) - _MOST_NAMED} more" if len(code) > _MOST_NAMED else ""
    return "; ".join(code[:_MOST_NAMED]) + more


def _refusal(path: Path, code: Sequence[str]) -> str:
    return (
        f"{path} contains code that tfopt does not run from files: {_listed(code)}. Replace a Lambda layer with a "
        "built-in one (Rescaling, Activation ...) and save again; register your own class or function "
        "(keras.saving.register_keras_serializable) and import the package that does so first (on the command line, "
        "tfopt --import PACKAGE COMMAND ...), or pass custom_objects={name: object}; or, if you trust the file as you "
        "would a program, pass allow_unsafe=True (--allow-unsafe)."
    )


def _with_weights_of(path: Path, found: str, like: Any) -> Any:
    """Return a model like `like` with the weights of a file of kind `found`."""
    if path.is_dir():
        raise ModelError(
            f"{path} is a SavedModel, of which no weights can be read alone: leave out like, or save the weights "
            "(model.save_weights)."
        )
    try:
        with weights_of(path) as weights:
            sandbox.try_first("tfopt.models.trial:read_weights", weights)
            with with_slashes(weights) as source:
                return _with_weights(path, source, like)
    except KeyError as error:  # weights in an .npz, as Keras 2.11 wrote them
        raise ModelError(
            f"{path}, of kind {found}, has no {WEIGHTS}, where its weights were expected: leave out like."
        ) from error


def _with_weights(path: Path, weights: Path, like: Any) -> Any:
    """Return a model like `like` with the `weights` of `path`, read by whichever Keras can."""
    flat = bridge.to_tf_keras(like)
    problems = []
    with _named_by_content(weights, ".weights.h5" if _is_new_layout(weights) else ".h5") as source, _quiet():
        try:
            model = bridge.to_keras(flat, like)
            model.load_weights(source)
            return model
        except Exception as error:
            problems.append(error)
        try:  # the layout of the other Keras; unless models are nested, the flat model has the same layers
            flat.load_weights(source)
            return bridge.to_keras(flat, like)
        except Exception as error:
            problems.append(error)
    said = "; ".join(" ".join(str(problem).split())[:200] for problem in problems)
    raise ModelError(
        f"The weights in {path} do not fit the model '{like.name}' ({said}); pass the model they came from."
    )


def _is_new_layout(path: Path) -> bool:
    """Return whether the file is a `.weights.h5` of Keras 2.12 or later, which has no attribute with layer names."""
    import h5py

    with h5py.File(path, "r") as file:
        return "layer_names" not in file.attrs and "model_weights" not in file


def _load(path: Path, found: str, custom_objects: dict[str, Any], *, safe: bool, compiled: bool = True) -> Any:
    if found == "keras3":
        import keras

        loader: Any = keras.models.load_model
        # Keras 3 writes these short names into HDF5 files but cannot read them back.
        short = {name: keras.losses.get(name) for name in ("mse", "mae", "mape", "msle", "bce", "kld")}
        custom_objects = {**short, **custom_objects}
    else:
        loader = keras_compat.tf_keras().models.load_model
        bridge.register_classes()
        if not safe:  # otherwise the scan has made the classes that the file names
            late_classes.ensure_all()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_named_by_content(stack.enter_context(with_slashes(path))))
        stack.enter_context(_quiet())
        settings: dict[str, Any] = {"custom_objects": custom_objects, "safe_mode": safe}
        for compiling in (True, False) if compiled else (False,):
            try:
                model = loader(source, compile=compiling, **settings)
            except Exception as error:
                problem = error
                continue
            if found != "keras3" and any(keras_compat.unwrapped(layer) is not layer for layer in model.layers):
                bridge.accept_keras3(model)  # what `apply` of a stage returned
            return model
        if _is_of_keras1(path):
            raise ModelError(
                f"{path} is of Keras 1, whose configuration no later Keras reads ({str(problem)[:100]}): build the "
                "model in Python and pass it, load_model(path, like=model); the weights are read."
            ) from problem
        raise _cannot_load(path, problem) from problem


def _is_of_keras1(path: Path) -> bool:
    """Return whether the file has the layout of Keras 1, which wrote its version from 1.2 on."""
    import h5py

    if path.is_dir() or zipfile.is_zipfile(path):
        return False
    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version", b"")
    return (version.decode() if isinstance(version, bytes) else str(version)).startswith("1.")


def _cannot_load(path: Path, error: Exception) -> ModelError:
    text = " ".join(str(error).split())
    missing = _MISSING.search(text)
    if missing:
        return ModelError(
            f"{path} needs {missing[1]}, which the file does not hold: register it "
            "(keras.saving.register_keras_serializable), or load the model in Python with "
            "load_model(path, custom_objects={name: object}) and pass the model itself."
        )
    return ModelError(f"{path} cannot be loaded ({text[:300]}); save it again with the Keras installed here.")


@contextlib.contextmanager
def _named_by_content(path: Path, ending: str = "") -> Iterator[str]:
    """Yield a path with the ending that fits the content: both Kerases choose their reader by it."""
    if path.is_dir():
        yield str(path)
        return
    ending = ending or (".keras" if zipfile.is_zipfile(path) else ".h5")
    if path.name.endswith(ending) and (ending != ".h5" or not path.name.endswith(".weights.h5")):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{ending}"
        link.symlink_to(path.resolve())
        yield str(link)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings about compile settings and optimizer state that could not be restored."""
    with warnings_held(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
