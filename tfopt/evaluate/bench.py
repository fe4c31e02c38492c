"""Benchmark model files on this machine: latency in interleaved rounds, peak memory, accuracy, bytes."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import models
from tfopt.base.finite_json import finite
from tfopt.base.renamed import renamed_arguments
from tfopt.base.words import in_decimals, metric_in_words, shortened
from tfopt.base.worker import DiedError
from tfopt.data import Dataset
from tfopt.data.compared import datasets_for
from tfopt.data.front_end import FrontEnd
from tfopt.data.ids import check_input_ids
from tfopt.data.predicting import outputs_for
from tfopt.errors import ModelError
from tfopt.evaluate.chance import tell_of_other_classes
from tfopt.evaluate.timing import ROUNDS, interleaved_times, speedup
from tfopt.models.sources import model_from
from tfopt.tasks import task_of
from tfopt.tasks.responses import logits_by_output
from tfopt.tflite.read import LiteModel, Port
from tfopt.tflite.read.lookups import lookups
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.export import build_file


@dataclass(frozen=True)
class Measured:
    """The measurements of one file.

    Attributes:
        metrics: on the test set, {} without data; None for NaN and infinity, which JSON lacks.
        bytes, deflated_bytes: of the file, and after zlib at level 9.
        macs: multiply-accumulates of one sample; None if they cannot be counted.
        median_ms, p90_ms: latency of one sample, over the invocations of all rounds.
        speedup: how many times faster than the first file, by rounds.
        memory_bytes: peak resident memory that loading and running it added in a separate process.
    """

    name: str
    metrics: dict[str, float | None]
    bytes: int
    deflated_bytes: int
    macs: int | None
    median_ms: float
    p90_ms: float
    speedup: float
    memory_bytes: int


@renamed_arguments(preprocess="preprocessing")
def benchmark_files(
    files: Sequence[str | Path],
    data: Any = None,
    *,
    threads: int = 1,
    preprocessing: str | FrontEnd | None = None,
    limit: int | None = None,
    rounds: int = ROUNDS,
    allow_unsafe: bool = False,
) -> list[Measured]:
    """Measure `files` in interleaved rounds, A B C A B C ..., so background load affects all equally.

    A Keras model is measured as the float `.tflite` that it converts to. Without `data` there are no metrics, and the
    latency is measured on random numbers. `preprocessing` is as for `load_data`; None leaves it to each file.
    `allow_unsafe` lets model files run Python code.

    Raises:
        ModelError: a file that cannot be run; with `data`, files that take inputs of different shapes.
        DataError: data that does not fit; test samples or tasks that differ between the files.
    """
    lites = [lite_of(file, threads=threads, allow_unsafe=allow_unsafe) for file in files]
    samples: list[Any] = [None] * len(lites)
    metrics: list[dict[str, float]] = [{} for _ in lites]
    if data is not None:
        shapes = {str(file): [port.shape[1:] for port in lite.inputs] for file, lite in zip(files, lites, strict=True)}
        if any(each != shapes[str(files[0])] for each in shapes.values()):
            raise ModelError(f"The files take inputs of different shapes, {shapes}: no data fit all of them.")
        datasets = datasets_for(files, lites, data, preprocessing=preprocessing, limit=limit)  # each is fed as it says
        for number, dataset in enumerate(datasets):
            metrics[number] = measured_on(lites[number], dataset, files[number])[1]
            samples[number] = dataset.test.x(slice(0, 1))
    milliseconds = interleaved_times(lites, samples, rounds=rounds)
    return [
        Measured(
            str(file),
            finite(metrics[number]),
            lite.size,
            lite.deflated,
            lite.macs(samples[number]),
            float(np.median(milliseconds[number])),
            float(np.percentile(milliseconds[number], 90)),
            speedup(milliseconds[0], milliseconds[number]),
            peak_memory(lite, threads),
        )
        for number, (file, lite) in enumerate(zip(files, lites, strict=True))
    ]


def outputs_of(lite: LiteModel, data: Dataset) -> dict[str, Any]:
    """Return the outputs of a file on the test part of `data`, by output; "" is the only one."""
    return named_outputs(lite, data, outputs_for(lite.predict, data.test))


def named_outputs(lite: LiteModel, data: Dataset, outputs: Any) -> dict[str, Any]:
    """Return what a file for `data` predicts, an array or several in a list, by output; "" is the only one."""
    if data.outputs is None:
        return {"": outputs}
    found = dict(zip(ports_by_output(lite, data), outputs, strict=True))
    return {name: found[name] for name in data.outputs}


def ports_by_output(lite: LiteModel, data: Dataset) -> dict[str, Port]:
    """Return the output ports of a file by the outputs of `data`, in the file's order: by name, else by position."""
    names = list(task_of(data).by_task())
    own = [port.name for port in lite.outputs]
    return dict(zip(own if set(own) == set(names) else names, lite.outputs, strict=True))


def measured_on(lite: LiteModel, data: Dataset, name: object) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the outputs of a file called `name` as `outputs_of` does, and the metrics on the test part of `data`.

    Raises:
        DataError: the data hold numbers without a row in a table of the file.
    """
    for number, what, rows in lookups(lite):
        check_input_ids(data, number, what, rows)
    outputs, task = outputs_of(lite, data), task_of(data)
    for output, found in outputs.items():
        tell_of_other_classes(data.of_output(output), found, name)
    taken = outputs if data.outputs is not None else outputs[""]
    return outputs, task.measured(taken, data.test, logits=logits_by_output(taken, task))


def lite_of(path: str | Path, *, threads: int = 1, allow_unsafe: bool = False) -> LiteModel:
    """Return the `.tflite` at `path`, or the float one that the Keras model at `path` converts to.

    `allow_unsafe` lets a model file run Python code.
    """
    if models.kind(path) == "tflite":
        return LiteModel(path, threads=threads)
    model = model_from(path, allow_unsafe=allow_unsafe)
    made = build_file(model, FLOAT, proven=False)
    lite = LiteModel(made.data, threads=threads)
    lite.layers = made.layers
    return lite


# A separate process that loads only LiteRT. Linux can reset the peak, so the imports, which need more than a
# small model, do not hide it; on other systems they may.
_PEAK_SECONDS = 600
_PEAK = """
import pathlib, resource, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
def peak():
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
try:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
except OSError:
    pass
before = peak()
interpreter = Interpreter(model_path=sys.argv[1], num_threads=int(sys.argv[2]))
interpreter.allocate_tensors()
for _ in range(3):
    for port in interpreter.get_input_details():
        interpreter.set_tensor(port["index"], np.zeros(port["shape"], port["dtype"]))
    interpreter.invoke()
print(peak() - before)
"""


def peak_memory(lite: LiteModel, threads: int = 1) -> int:
    """Return the growth in bytes of peak resident memory when a new process loads `lite` and runs it on one batch.

    Raises:
        ModelError: it cannot be run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(lite.data)
        command = [sys.executable, "-P", "-c", _PEAK, str(path), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PEAK_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"LiteRT takes more than {_PEAK_SECONDS} seconds to run it.") from error
    if done.returncode:
        death = DiedError(done.returncode, done.stderr)
        raise ModelError(f"LiteRT cannot run it: {death.last_line or death.cause}")
    return int(done.stdout)


def benchmark_table(measured: Sequence[Measured], threads: int) -> Any:
    """Return a `rich.table.Table` with a row for each file."""
    from rich.table import Table

    names = list(measured[0].metrics)
    table = Table(title=f"one sample on {threads} thread{'s' * (threads > 1)}", title_justify="left")
    table.add_column("file", overflow="fold")
    for name in [*map(metric_in_words, names), "bytes", "deflated", "MACs", "p50 ms", "p90 ms", "speed", "peak MiB"]:
        table.add_column(name, justify="right")
    for row in measured:
        table.add_row(
            row.name,
            *(in_decimals(row.metrics[name]) for name in names),
            f"{row.bytes:,}",
            f"{row.deflated_bytes:,}",
            shortened(row.macs),
            f"{row.median_ms:.3f}",
            f"{row.p90_ms:.3f}",
            f"{row.speedup:.2f}x",
            f"{row.memory_bytes / 2**20:.1f}",
        )
    return table
