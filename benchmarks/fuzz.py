"""Open damaged files: 2,000 mutants of every kind of file tfopt reads.

    python benchmarks/fuzz.py

A mutant is a small valid file with flipped bits, a missing end, runs of bytes replaced or copied from elsewhere, such
changes inside a zip member (with a corrected checksum), or other values in its JSON; some of these values would run
code that leaves a trace. A child process opens each as a user would; it is replaced when it dies, takes too long, or
has opened many. --seed, kind and number determine a mutant.
"""

import base64
import io
import json
import marshal
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from common import publish
from rich.progress import track

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SHARES = {
    "tflite": 400, "packed .gz": 100, "packed .zst": 100, ".keras, Keras 3": 325, ".keras, tf_keras": 250,
    ".h5, Keras 3": 200, ".h5, tf_keras": 200, ".npz": 125, ".npz, compressed": 100, "recipe.json": 200,
}  # fmt: skip
OUTCOMES = ("opened", "clear error", "clear error, no path", "raw error", "crash", "time-out", "code run")
OPENED_BY_ONE = 250  # mutants per child, because Keras leaks memory
MEMORY = 8 * 2**30  # bytes a child may use in addition to TensorFlow
CANARY = "tfopt_canary"
CANARY_SOURCE = """
import os, pathlib

def strike(*_, **__):
    pathlib.Path(os.environ["TFOPT_CANARY"]).touch()

class Strike:
    def __init__(self, **_): strike()
    from_config = classmethod(lambda cls, _: strike())

strike()
"""


# The valid files ---------------------------------------------------------------------------------


def write_seeds(folder: Path) -> dict[str, list[Path]]:
    """Return small valid files by kind."""
    import keras
    import numpy as np

    import tfopt
    from tfopt.base import keras_compat

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype("uint8")
    y = np.arange(40) % 4
    data = tfopt.load_data((x, y))
    models = {"Keras 3": small(keras), "tf_keras": small(keras_compat.tf_keras())}
    files: dict[str, list[Path]] = {"tflite": []}
    for weights, activations in (("float32", "float32"), ("int8", "int8"), ("float16", "float32")):
        path = folder / f"{weights}.tflite"
        settings = {"representative_data": data.representative(16)} if activations == "int8" else {}
        tfopt.export_tflite(models["Keras 3"], path, tfopt.Export(weights=weights, activations=activations), **settings)
        files["tflite"].append(path)
    for ending, pack in ((".gz", gzipped), (".zst", zstd)):
        files[f"packed {ending}"] = [
            written(Path(f"{path}{ending}"), pack(path.read_bytes())) for path in files["tflite"]
        ]
    for name, model in models.items():
        for ending in (".keras", ".h5"):
            model.save(folder / f"{name}{ending}")
            files[f"{ending}, {name}"] = [folder / f"{name}{ending}"]
    np.savez(folder / "plain.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8], class_names=np.array(list("abcd")))
    np.savez_compressed(folder / "compressed.npz", x=x, y=y)
    files[".npz"], files[".npz, compressed"] = [folder / "plain.npz"], [folder / "compressed.npz"]
    recipe = tfopt.Recipe(
        stages=(tfopt.Prune(), tfopt.Cluster(), tfopt.Quantize()), distillation=tfopt.Distillation(), name="fuzz"
    )
    files["recipe.json"] = [written(folder / "recipe.json", recipe.to_json().encode())]
    return files


def small(package: Any) -> Any:
    layers = package.layers
    model = package.Sequential(
        [
            package.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def gzipped(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Mutation ----------------------------------------------------------------------------------------


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def replace_run(data: bytes, rng: random.Random) -> bytes:
    begin, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64, 512))
    run = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length), b"\x7f" * length))
    return data[:begin] + run[: len(data) - begin] + data[begin + length :]


def splice(data: bytes, rng: random.Random) -> bytes:
    length = rng.choice((4, 16, 256, 1024))
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    over = length if rng.random() < 0.5 else 0  # overwrite or insert
    return data[:target] + data[source : source + length] + data[target + over :]


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip_bits, truncate, replace_run, splice)


def in_member(data: bytes, rng: random.Random) -> bytes:
    """Return a zip with one changed member, mostly in its JSON."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: (archive.read(member), member.compress_type) for member in archive.infolist()}
    name = rng.choice(sorted(members))
    content, kind = members[name]
    if name.endswith(".json") and rng.random() < 0.8:
        content = other_values(content, rng)
    else:
        content = rng.choice(BYTES)(content, rng)
    members[name] = content, kind
    if rng.random() < 0.1:
        del members[rng.choice(sorted(members))]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (content, kind) in members.items():
            archive.writestr(name, content, kind)
    return file.getvalue()


def other_values(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with some values, keys or parts changed."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            break
        holder, key = rng.choice(places)
        if rng.random() < 0.15:
            del holder[key]
        elif isinstance(holder, dict) and rng.random() < 0.1:
            holder[rng.choice(("class_name", "config", "module", "x" * 300, "\x1b[31m"))] = holder.pop(key)
        else:
            holder[key] = rng.choice(VALUES)(holder[key])
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def strike_code() -> str:
    """Return a function as Keras stores it; running it would leave the trace."""
    path = os.environ.get("TFOPT_CANARY", "/dev/null")
    code = compile(f"lambda x: (open({path!r}, 'w').close(), x)[1]", "<fuzz>", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(code)).decode()


VALUES: tuple[Callable[[Any], Any], ...] = (
    lambda _: None, lambda _: -1, lambda _: 0, lambda _: 2**31, lambda _: 10**30, lambda _: 1e308,
    lambda _: float("nan"), lambda _: "", lambda _: "\x1b[2J\u202e", lambda _: [], lambda _: {}, lambda _: nested(220),
    lambda old: [old], lambda old: {"config": old}, lambda old: str(old), lambda old: not old,
    lambda _: "Dense", lambda _: "Lambda", lambda _: "Functional", lambda _: [2**40, 2**40],
    lambda _: CANARY, lambda _: f"{CANARY}.strike",
    lambda _: {"module": CANARY, "class_name": "function", "config": "strike", "registered_name": "strike"},
    lambda _: {"module": CANARY, "class_name": "Strike", "config": {}, "registered_name": None},
    lambda _: {"class_name": "__lambda__", "config": {"code": strike_code(), "defaults": None, "closure": None}},
    lambda _: {"module": "keras.layers", "class_name": "Lambda", "registered_name": None, "config": {
        "name": "strike", "function": {"class_name": "__lambda__", "config": {
            "code": strike_code(), "defaults": None, "closure": None}}, "arguments": {}}},
)  # fmt: skip


def in_hdf5(path: Path, data: bytes, rng: random.Random) -> bytes:
    """Return an HDF5 file with other values in the JSON of its attributes."""
    import h5py

    path.write_bytes(data)
    with h5py.File(path, "a") as file:
        name = rng.choice(("model_config", "model_config", "training_config"))
        text = file.attrs[name]
        file.attrs[name] = other_values(text if isinstance(text, bytes) else text.encode(), rng).decode()
    return path.read_bytes()


def mutant(kind: str, seeds: list[Path], number: int, seed: int, path: Path) -> Path:
    """Write mutant `number` of a kind to `path`."""
    rng = random.Random(f"{seed} {kind} {number}")
    data = rng.choice(seeds).read_bytes()
    inside = rng.random()
    if kind.startswith((".keras", ".npz")) and inside < 0.6:
        return written(path, in_member(data, rng))
    if kind.startswith(".h5") and inside < 0.4:
        return written(path, in_hdf5(path, data, rng))
    if kind == "recipe.json" and inside < 0.7:
        return written(path, other_values(data, rng))
    if kind.startswith("packed") and inside < 0.3:
        unpacked = seeds[0].with_suffix("").read_bytes()
        return written(path, (gzipped if kind.endswith(".gz") else zstd)(rng.choice(BYTES)(unpacked, rng)))
    return written(path, rng.choice(BYTES)(data, rng))


# Opening -----------------------------------------------------------------------------------------


def open_as_a_user(path: Path) -> None:
    import tfopt
    from tfopt.evaluate.inspect import inspect_file

    if path.suffix == ".npz":
        tfopt.load_data(path)
    elif path.suffix == ".json":
        tfopt.Recipe.load(path)
    elif path.suffix in (".keras", ".h5"):
        tfopt.load_model(path)
        str(inspect_file(path).table())
    else:
        tfopt.LiteModel(path)
        str(inspect_file(path).table())


def child(connection: Any, canary: str) -> None:
    """Open each received path, and send the outcome."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    os.dup2(sys.stderr.fileno(), 2)
    from tfopt.base.stderr import load_tensorflow_quietly
    from tfopt.errors import TfoptError

    load_tensorflow_quietly()
    import keras

    from tfopt.base import keras_compat

    sys.path.insert(0, str(Path(canary).parent))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    connection.send("ready")
    while True:
        path = connection.recv()
        outcome, said = "opened", ""
        try:
            open_as_a_user(Path(path))
        except TfoptError as error:
            outcome, said = ("clear error" if path in str(error) else "clear error, no path"), str(error)
        except BaseException as error:
            outcome, said = "raw error", f"{type(error).__name__}: {error} [{_where(error)}]"
        if Path(canary).exists():
            Path(canary).unlink()
            outcome = "code run"
        for package in (keras, keras_compat.tf_keras()):
            package.backend.clear_session()
        connection.send((outcome, " ".join(said.split())))


def _where(error: BaseException) -> str:
    """Return the last line of tfopt in the traceback."""
    trace, found = error.__traceback__, ""
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "tfopt" in file.parts:
            found = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


@dataclass
class Opener:
    """A child process that opens files one by one; replaced when it dies or hangs."""

    canary: Path
    timeout: float
    process: Any = None
    connection: Any = None
    opened: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def open(self, path: Path) -> tuple[str, str]:
        if self.process is None or self.opened >= OPENED_BY_ONE:
            self._start()
        self.opened += 1
        self.connection.send(str(path))
        started = time.perf_counter()
        try:
            if not self.connection.poll(self.timeout):
                self.stop()
                return "time-out", f"after {self.timeout:.0f} s"
            found: tuple[str, str] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            found = "crash", f"exit code {self.process.exitcode}"
            self.process = None
        self.seconds[str(path)] = time.perf_counter() - started
        return found

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=child, args=(other, str(self.canary)), daemon=True)
        self.process.start()
        other.close()
        self.connection.recv()
        self.opened = 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


@click.command()
@click.option("--mutants", default=sum(SHARES.values()), show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for one file.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(SHARES)), help="Only these; writes no table.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the files that end in anything but an error.")
def main(mutants: int, seed: int, timeout: float, kinds: tuple[str, ...], keep: Path | None) -> None:
    """Open mutants of every kind of file and count what happens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        canary = folder / "canary" / "struck"
        written_module = folder / "canary" / f"{CANARY}.py"
        written_module.parent.mkdir()
        written_module.write_text(CANARY_SOURCE)
        os.environ["TFOPT_CANARY"] = str(canary)
        seeds = write_seeds(folder)
        counts, notes = {}, []
        opener = Opener(canary, timeout)
        for kind in kinds or SHARES:
            number = max(1, round(SHARES[kind] * mutants / sum(SHARES.values())))
            counts[kind], said = _counted(kind, seeds[kind], number, seed, folder, opener, keep)
            notes += said
        opener.stop()
        slowest = max(opener.seconds.values(), default=0)
    rows = [[kind, *(str(found[outcome]) for outcome in OUTCOMES)] for kind, found in counts.items()]
    total = sum(counts.values(), Counter())
    rows.append([f"all {total.total():,}", *(str(total[outcome]) for outcome in OUTCOMES)])
    for note in notes:
        print(note)
    if kinds:
        print(*rows, f"slowest: {slowest:.1f} s", sep="\n")
        return
    facts = [
        f"python benchmarks/fuzz.py --mutants {mutants} --seed {seed} --timeout {timeout:g}",
        f"at most {MEMORY / 2**30:.0f} GiB for each child beside TensorFlow; the slowest file took {slowest:.1f} s",
        "clear error: a ModelError, DataError or RecipeError that names the file; code run: the trace was left",
        *notes,
    ]
    publish("fuzz", "Damaged files: what opening them ends in", ["kind", *OUTCOMES], rows, facts)


def _counted(
    kind: str, seeds: list[Path], number: int, seed: int, folder: Path, opener: Opener, keep: Path | None
) -> tuple[Counter[str], list[str]]:
    ending = "".join(seeds[0].suffixes[-1:])
    found: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for position in track(range(number), description=kind):
        path = mutant(kind, seeds, position, seed, folder / f"mutant-{position}{ending}")
        outcome, said = opener.open(path)
        found[outcome] += 1
        if outcome not in ("opened", "clear error"):
            notes[f"{kind}: {outcome}: {said.replace(str(path), 'FILE')[:160]}"] += 1
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, keep / f"{kind.replace(' ', '_').replace(',', '').strip('.')}-{path.name}")
        path.unlink()
    return found, [f"{text} ({times} times)" for text, times in notes.most_common()]


if __name__ == "__main__":
    main()
