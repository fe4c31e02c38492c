"""What attack files have in common, and how to write them by hand.

An attack file runs code, imports a module, or reads or writes a file that its author chose, when an unprotected Keras
or TensorFlow loads it. `Canary` is the target: harmless and easy to check.
"""

import atexit
import itertools
import json
import marshal
import os
import shutil
import sys
import tempfile
import zipfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSIONS = {"keras3": "3.15.1", "tf_keras": "2.21.0"}
SECRET = "the-secret-of-another-file"
_NUMBERS = itertools.count()
_MODULE = """
from pathlib import Path

Path({ran!r}).touch()


def run(*args, **kwargs):
    return args[0] if args else None


class Thing:
    @classmethod
    def from_config(cls, config):
        return cls()
"""


def _modules() -> Path:
    """A folder from which this process and its children can import."""
    folder = tempfile.mkdtemp(prefix="canaries-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.path.append(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), folder]))
    return Path(folder)


MODULES = _modules()  # now, before any test has started a process


class Canary:
    """A folder in which attacks leave traces.

    Attributes:
        ran: a file that does not exist until an attack has run.
        module: the name of an importable module that creates `ran` on import; it has `run` and `Thing`.
        secret: a text file that no model file has any reason to read.
    """

    def __init__(self, folder: Path, *, write: bool = True) -> None:
        self.folder = folder
        self.ran = folder / "ran"
        self.module = f"canary_{os.getpid()}_{next(_NUMBERS)}"
        self.secret = folder / "secret.txt"
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            self.importable(self.module)
            self.secret.write_text(f"{SECRET}\nsecond\n")

    def importable(self, name: str) -> None:
        """Make a module called `name` that leaves a trace when imported."""
        (MODULES / f"{name}.py").write_text(_MODULE.replace("{ran!r}", repr(str(self.ran))))
        sys.modules.pop(name, None)

    @property
    def touched(self) -> bool:
        return self.ran.exists() or self.module in sys.modules

    @property
    def shell(self) -> str:
        """A command that creates `ran`."""
        return f"touch {self.ran}"

    @property
    def code(self) -> Any:
        """A function of one argument that creates `ran`, as a lambda."""
        return eval(f"lambda x, *rest: __import__('pathlib').Path({str(self.ran)!r}).touch() or x")

    @property
    def bytecode(self) -> str:
        """`code` as both Keras versions write it: marshalled and base64."""
        return b64encode(marshal.dumps(self.code.__code__)).decode()


@dataclass(frozen=True)
class Attack:
    """How to make one file, and how it shows that the file is real.

    Attributes:
        name: of the shape, short.
        kind: "keras3", "tf_keras" (a model file for that Keras) or "saved_model".
        form: ".keras", ".h5" or "" for a folder.
        build: writes the file, or the folder, at a path.
        proof: what a plain Keras without safe mode does with it: "ran" makes the canary's file, "secret" has read the
            secret, "state" changes a setting of Keras, "" nothing: these versions look
            elsewhere, and the file is refused all the same.
        may_load: True where the attack sits in how a model was compiled only, which may be left out.
    """

    name: str
    kind: str
    form: str
    build: Callable[[Path, Canary], Any]
    proof: str = "ran"
    may_load: bool = False

    @property
    def id(self) -> str:
        return f"{self.kind}{self.form}-{self.name}"

    @property
    def doors(self) -> str:
        """What opens it: load_model, or open_hub for a SavedModel without Keras layers."""
        return "hub" if self.kind == "saved_model" else "model"

    def written(self, folder: Path, canary: Canary) -> Path:
        path = folder / f"model{self.form}"
        self.build(path, canary)
        return path


def keras_file(path: Path, config: Any, kind: str, members: dict[str, bytes] | None = None) -> None:
    """A `.keras` file with this config; the weights are those of a model without any unless `members` has others."""
    members = members or {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": VERSIONS[kind], "date_saved": "2026-01-01"}))
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        if not any(name.startswith("model.weights") for name in members):
            archive.writestr("model.weights.h5", empty_hdf5())
        for name, content in members.items():
            archive.writestr(name, content)


def empty_hdf5() -> bytes:
    import io

    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.create_group("vars")
    return memory.getvalue()


def hdf5_file(path: Path, config: Any, kind: str, training: Any = None) -> None:
    """An `.h5` file with this config and training config, of a model without weights."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = VERSIONS[kind]
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        if training is not None:
            file.attrs["training_config"] = json.dumps(training)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = []
        group.attrs["backend"] = "tensorflow"
        group.attrs["keras_version"] = VERSIONS[kind]


def model_file(path: Path, config: Any, kind: str, **settings: Any) -> None:
    (keras_file if path.suffix == ".keras" else hdf5_file)(path, config, kind, **settings)


def in_the_name_of(registered: str, what: dict[str, Any]) -> dict[str, Any]:
    """An object that claims to be registered under a name that tfopt or the caller trusts."""
    return {**what, "registered_name": registered}


def function(module: str | None, name: str, registered: Any = "function") -> dict[str, Any]:
    """A function as both Keras versions serialize one; Keras uses the module and config, not the registered name."""
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered}
