"""Compare two model files on the same test set."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import models
from tfopt.base.renamed import renamed_arguments
from tfopt.base.words import metric_in_words
from tfopt.data import Dataset
from tfopt.data.compared import datasets_for
from tfopt.data.front_end import FrontEnd
from tfopt.errors import ModelError
from tfopt.evaluate.bench import lite_of, measured_on
from tfopt.evaluate.timing import interleaved_times, speedup
from tfopt.tasks import task_of
from tfopt.tasks.metrics import agreement
from tfopt.tasks.responses import are_logits


@renamed_arguments(preprocess="preprocessing")
def compare_files(
    a: str | Path,
    b: str | Path,
    data: Any,
    *,
    threads: int = 1,
    preprocessing: str | FrontEnd | None = None,
    limit: int | None = None,
    allow_unsafe: bool = False,
) -> Any:
    """Return a `rich.table.Table` of accuracy, agreement, bytes and latency of two files.

    Each file is fed as a `data.json` beside it says, unless `preprocessing`, as for `load_data`, does. Latencies are
    measured in turn, A B A B ..., so background load affects both equally. `allow_unsafe` lets model files run Python
    code.

    Raises:
        ModelError: a file that cannot be run; inputs of different shapes.
        DataError: data that does not fit; test samples or tasks that differ between the files.
    """
    from rich.table import Table

    files = [lite_of(path, threads=threads, allow_unsafe=allow_unsafe) for path in (a, b)]
    shapes = [[port.shape[1:] for port in file.inputs] for file in files]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"The files take inputs of different shapes, {shapes[0]} and {shapes[1]}, so they cannot be compared."
        )
    paths, found, samples, fed = (a, b), [], [], []
    for path, file, dataset in zip(
        paths, files, datasets_for(paths, files, data, preprocessing=preprocessing, limit=limit), strict=True
    ):  # each is fed as it says
        found.append(measured_on(file, dataset, path))
        samples.append(dataset.test.x(slice(0, 1)))
        fed.append(dataset.preprocessing.describe())
    predictions, metrics = zip(*found, strict=True)
    times = interleaved_times(files, samples)
    macs = [file.macs(sample) for file, sample in zip(files, samples, strict=True)]
    table = Table(title=f"{len(dataset.test):,} test samples, {' and '.join(dict.fromkeys(fed))}", title_justify="left")
    table.add_column("")
    for path in paths:
        as_file = "" if models.kind(path) == "tflite" else " (as a float .tflite)"
        table.add_column(f"{path}{as_file}", justify="right", overflow="fold")
    for name in metrics[0]:
        table.add_row(metric_in_words(name), *(f"{values[name]:.4f}" for values in metrics))
    for name, same in _agreements(dataset, *predictions):
        table.add_row(f"{name} agreement".strip(), "", f"{same:.4f}")
    table.add_row("bytes", *(f"{file.size:,}" for file in files))
    table.add_row("deflated bytes", *(f"{file.deflated:,}" for file in files))
    table.add_row("MACs", *("-" if count is None else f"{count:,}" for count in macs))
    table.add_row(
        f"ms per sample, median ({threads} thread{'s' * (threads > 1)})", *(f"{np.median(each):.3f}" for each in times)
    )
    table.add_row("ms per sample, p90", *(f"{np.percentile(each, 90):.3f}" for each in times))
    table.add_row("speed ratio", "", f"{speedup(*times):.2f}x")
    return table


def _agreements(data: Dataset, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the share of samples with the same class for each output that has classes."""
    for name, task in task_of(data).by_task().items():
        pair = (ours[name], theirs[name])
        if task.scores_classes or (task.labels == "none" and pair[0].shape[-1] > 1):
            yield name, agreement(*pair, logits=[are_logits(each, task) for each in pair])
