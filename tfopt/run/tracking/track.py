"""Follow a run with trackers; one that fails is left out, with a note, and the run goes on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tfopt.base.keras_compat import unwrapped
from tfopt.base.progress import Listener, Progress
from tfopt.base.weight_statistics import sparsity
from tfopt.errors import RecipeError
from tfopt.evaluate.findings.collect import versions
from tfopt.evaluate.page.recipe import settings_of
from tfopt.run.tracking.mlflow import MLflow
from tfopt.run.tracking.tensorboard import TensorBoard
from tfopt.run.tracking.tracker import Start, Tracker
from tfopt.run.tracking.wandb import Wandb
from tfopt.stages.kernels.table import kernels

TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": Wandb}
COSTS = ("bytes", "deflated_bytes", "nonzero_parameters", "max_unique_weights", "latency_ms", "macs", "speedup")


@contextmanager
def tracked(names: Sequence[str], *, quiet: bool = False) -> Iterator[list[Listener]]:
    """Yield the listeners that track a run within this block, and close what they have opened.

    Args:
        names: of trackers, "mlflow", or with a place, "mlflow=http://localhost:5000".
        quiet: no note about a tracker that fails.

    Raises:
        RecipeError: there is no such tracker, or its package is not installed.
    """
    followers = [_Follower(tracker, Progress(quiet=quiet)) for tracker in trackers(names)]
    try:
        yield list(followers)
    finally:
        for follower in followers:
            follower.close()


def trackers(names: Sequence[str]) -> list[Tracker]:
    """Return the trackers for `names`, as `tracked` takes them. Raise RecipeError for others, or missing packages."""
    if isinstance(names, str):
        names = (names,)
    found = []
    for each in names:
        name, _, where = str(each).partition("=")
        if name not in TRACKERS:
            raise RecipeError(f"Expected trackers among {', '.join(TRACKERS)}; got '{name}'.")
        if find_spec(name) is None:
            raise RecipeError(f"Expected {TRACKERS[name].title} to be installed. Run pip install 'tfopt[track]'.")
        found.append(TRACKERS[name](where or None))
    return found


class _Follower:
    """Gives the events of a run to a tracker, as long as that works.

    Args:
        tracker: gets numbers and files.
        progress: gets a note when it fails.
    """

    def __init__(self, tracker: Tracker, progress: Progress) -> None:
        self._tracker, self._progress = tracker, progress
        self._open = self._lost = False
        self._files: dict[str, bytes] = {}
        self._ok = False
        self._epochs = self._rows = 0

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Take an event of a run."""
        hear = getattr(self, f"_{event}", None)
        if hear is not None and not self._lost and (self._open or event == "run_started"):
            self._try(hear, values)

    def close(self) -> None:
        """Close the run, if it is open."""
        if self._open and not self._lost:
            self._open = False
            self._try(self._tracker.end, self._files, ok=self._ok)

    def _try(self, do: Any, *args: Any, **kwargs: Any) -> None:
        try:
            do(*args, **kwargs)
        except Exception as error:  # no network, disk or server: the run is worth more
            self._lost = True
            why = " ".join(f"{type(error).__name__}: {error}".split())
            self._progress.say(f"note: {self._tracker.title} does not track this run any more ({why}); the run goes on")

    def _run_started(self, values: Mapping[str, Any]) -> None:
        self.close()  # of the seed before
        self._files, self._ok, self._epochs, self._rows = {}, False, 0, 0
        start = Start(name=values["name"], params=settings_of(values["recipe"]), versions=versions())
        self._tracker.begin(start)
        self._open = True

    def _model(self, values: Mapping[str, Any]) -> None:
        self._tracker.show_model(values["model"])

    def _resumed(self, values: Mapping[str, Any]) -> None:
        self._epochs += values["epochs"]
        self._rows += values["rows"]

    def _epoch(self, values: Mapping[str, Any]) -> None:
        self._epochs += 1
        rate = {} if values["learning_rate"] is None else {"learning_rate": values["learning_rate"]}
        self._log({**values["metrics"], **rate}, self._epochs)

    def _weights(self, values: Mapping[str, Any]) -> None:
        self._log(sparsity_by_kernel(values["model"]), self._epochs)

    def _row(self, values: Mapping[str, Any]) -> None:
        self._rows += 1
        costs = {name: values[name] for name in COSTS}
        self._log({f"file/{name}": value for name, value in {**values["metrics"], **costs}.items()}, self._rows)

    def _result(self, values: Mapping[str, Any]) -> None:
        result = values["result"]
        self._ok = result.verdict.ok
        self._files = result.main_files()

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        known = {name: float(value) for name, value in values.items() if value is not None}
        numbers = {name: value for name, value in known.items() if math.isfinite(value)}
        if numbers:
            self._tracker.log(numbers, step)


def sparsity_by_kernel(model: Any) -> dict[str, float]:
    """Return the share of zeros in each kernel of a tf_keras model in training, by "sparsity/LAYER/KERNEL"."""
    layers = [unwrapped(layer) for layer in getattr(model, "student", model).layers]
    return {
        f"sparsity/{layer.name}/{kernel.name}": sparsity(kernel.values) for layer in layers for kernel in kernels(layer)
    }
