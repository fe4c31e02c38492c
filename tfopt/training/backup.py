"""Back up a training after its epochs, so that after an interruption it goes on as if there had been none."""

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base import interruption
from tfopt.base.archives import read_state
from tfopt.base.files import atomic_path
from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.base.reading import parse_json, reading
from tfopt.base.words import counted
from tfopt.data.position import Position
from tfopt.errors import DataError, OutputError
from tfopt.graph import keras_internals
from tfopt.training.distribution import Distribution

EVERY = 600.0
"""Seconds between two backups within an epoch."""
KEPT = 2
"""Number of backups that are kept: the older one serves if the newer one is damaged."""


@dataclass(frozen=True)
class State:
    """A training between two of its steps.

    Attributes:
        epoch, step: of the next step, from 0.
        ended: whether the training is over, perhaps before its last epoch.
        history: the logs of the epochs so far, by name.
        arrays: the values of all variables, and what callbacks hold.
        seconds: it has taken, in all processes.
    """

    epoch: int
    step: int
    ended: bool
    history: dict[str, list[float]]
    arrays: dict[str, np.ndarray]
    seconds: float = 0.0


_EVERY: ContextVar[float] = ContextVar("every", default=EVERY)


@contextmanager
def backing_up_every(seconds: float) -> Iterator[None]:
    """Make backups within this block `seconds` apart, unless they set their own interval."""
    token = _EVERY.set(seconds)
    try:
        yield
    finally:
        _EVERY.reset(token)


@dataclass
class Backup:
    """The backups of one training.

    Attributes:
        folder: for the backups; None keeps none.
        every: seconds between two backups within an epoch.
        progress: tells where a training goes on.
        position: where the batches of the training begin; give it to what makes them.
        distribution: over which the training is spread.
        writes: whether this process writes backups, or only goes on from them.
        begin: called before each backup is written; may raise `OutputError`.
        seconds_before: that earlier processes have trained, once the training has begun.
        ending: whether all workers know that the training ends now.
    """

    folder: Path | None = None
    every: float = field(default_factory=_EVERY.get)
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    position: Position = field(default_factory=Position)
    distribution: Distribution = field(default_factory=Distribution)
    writes: bool = True
    begin: Callable[[], None] = lambda: None
    seconds_before: float = 0.0
    ending: bool = False

    def fit(
        self,
        learner: Any,
        batches: Any,
        *,
        epochs: int,
        callbacks: Sequence[Any],
        label: str,
        **arguments: Any,
    ) -> dict[str, list[float]]:
        """Fit a compiled tf_keras model from where its last backup leaves off.

        A callback with state has `get_state`, which returns arrays by name, and `set_state`, which takes them back
        after `on_train_begin`.

        Args:
            learner: the model, or a learner with it as `student`; its optimizer is built.
            batches: for one epoch, made with `position`.
            epochs: of the whole training.
            callbacks: of `fit`, in the order in which they act.
            label: of the training, in words.
            **arguments: of `fit`.

        Returns:
            The history of all epochs: a value per epoch by name.

        Raises:
            Interrupted: a signal asked to end; the training is backed up.
        """
        recorder = _recorder_class()(self, learner, callbacks, label)
        samples = arguments["validation_data"] if "validation_data" in arguments else batches.take(1)
        epoch, step = self._resume(recorder, learner, epochs, samples)
        self._began = time.monotonic()
        self.position.tell(epoch, step)
        with keras_internals.beginning_at(learner, epoch, step), interruption.held():
            callbacks = [*callbacks, recorder]
            learner.fit(batches, initial_epoch=epoch, epochs=epochs, callbacks=callbacks, **arguments)
        return dict(recorder.history)

    def seconds(self) -> float:
        """Return the seconds that the training has taken by now, in all processes."""
        return self.seconds_before + time.monotonic() - self._began

    def agree(self, *, due: bool) -> bool:
        """Return whether any worker is due to save, or asked to end, which then all are."""
        number = self.distribution.largest(max(int(due), interruption.asked()))
        self.ending = number > 1  # no signal has a number below 2 that can be caught
        if self.ending:
            interruption.ask(number)
        return number > 0

    def _resume(self, recorder: Any, learner: Any, epochs: int, samples: Any) -> tuple[int, int]:
        """Restore the last backup, if there is one; return the epoch and the step with which the training begins."""
        state = self._latest(recorder)
        if state is None:
            return 0, 0
        if state.step:  # this makes the running means, which Keras would make in the first step
            learner.evaluate(samples, steps=1, verbose=0)
        recorder.restore(state)
        self.seconds_before = state.seconds
        self.progress.tell("resumed", epochs=state.epoch, rows=0)
        self.progress.say(f"{recorder.label}: going on {_after(state.epoch, state.step)}")
        return (epochs, 0) if state.ended else (state.epoch, state.step)

    def save(self, state: State) -> None:
        """Write a backup, and remove all but the last ones. One that cannot be written is a note."""
        if self.folder is None or not self.writes:
            return
        about = json.dumps([state.epoch, state.step, state.ended, state.history, round(state.seconds, 3)])
        paths = self._paths()
        number = _number(paths[0]) + 1 if paths else 0
        try:
            self.begin()
            with atomic_path(self.folder / f"state_{number}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, about=about, **state.arrays)  # type: ignore[arg-type]
            for old in paths[KEPT - 1 :]:
                old.unlink(missing_ok=True)
        except (OSError, OutputError) as error:  # a full disk, say: the training is worth more than its backup
            self.progress.say(f"note: no checkpoint was written ({error}); the training goes on")

    def _paths(self) -> list[Path]:
        """Return the backups, the newest first."""
        found = self.folder.glob("state_*.npz") if self.folder is not None else []
        return sorted((path for path in found if _number(path) >= 0), key=_number, reverse=True)

    def _latest(self, recorder: Any) -> State | None:
        """Return the newest backup that can be read and fits."""
        for path in self._paths():
            try:
                with reading(lambda why, path=path: DataError(f"The checkpoint {path} is damaged ({why}).")):  # type: ignore[misc]
                    return _read(path, recorder.variables)
            except DataError as error:
                self.progress.say(f"note: {error} Ignoring it.")
        return None


def _number(path: Path) -> int:
    """Return the number in the name of a backup; -1 for a file of another kind."""
    digits = path.stem.removeprefix("state_")
    return int(digits) if digits.isdecimal() else -1


def _read(path: Path, variables: Mapping[str, Any]) -> State:
    arrays = read_state(path)
    epoch, step, ended, history, seconds = parse_json(str(arrays.pop("about")))
    if any(arrays[name].shape != tuple(variable.shape) for name, variable in variables.items()):
        raise ValueError("it does not fit the model")
    return State(int(epoch), int(step), bool(ended), dict(history), arrays, float(seconds))


def _after(epoch: int, step: int) -> str:
    return f"after {counted(step, 'step')} of epoch {epoch + 1}" if step else f"after epoch {epoch}"


def _lasting(learner: Any) -> list[Any]:
    """Return what training changes: weights, optimizer slots, random states, and what a learner holds beside them."""
    own = getattr(learner, "own_variables", [])
    optimizer = [*learner.optimizer.variables, *keras_internals.loss_scale(learner.optimizer)]
    optimizer += keras_internals.untracked_variables(learner.optimizer)
    return [*learner.variables, *optimizer, *own, *keras_internals.random_states(learner)]


def _running(learner: Any) -> dict[str, Any]:
    """Return what runs over an epoch: the means of losses and metrics."""
    return _numbered("running", (variable for metric in learner.metrics for variable in metric.variables))


def _numbered(prefix: str, values: Iterable[Any]) -> dict[str, Any]:
    return {f"{prefix}_{number}": value for number, value in enumerate(values)}


@functools.cache
def _recorder_class() -> Any:
    class Recorder(tf_keras().callbacks.Callback):  # type: ignore[misc]
        """Backs up a training; the last of its callbacks."""

        _supports_tf_logs = True  # see `EpochLines`

        def __init__(self, backup: Backup, learner: Any, callbacks: Sequence[Any], label: str) -> None:
            super().__init__()
            self._backup, self.label = backup, label
            self.variables = _numbered("variable", _lasting(learner))
            self._callbacks = [callback for callback in callbacks if hasattr(callback, "get_state")]
            self._restored: State | None = None
            self.history: dict[str, list[float]] = {}
            # Before the last step of the epoch, as Keras cannot fit an epoch of no step: a signal in the validation
            # costs a step and the validation, not the epoch.
            self._before_validation: State | None = None
            self._saved = time.monotonic()

        def restore(self, state: State) -> None:
            """Take up a training: its variables now, for callbacks that look at them first, and again as it begins."""
            self._restored, self.history = state, state.history
            self._assign(self.variables, state.arrays)

        def _assign(self, variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
            for name, variable in variables.items():
                variable.assign(arrays[name])

        def on_train_begin(self, logs: Any = None) -> None:
            if self._restored is None:
                return
            self._assign(self.variables, self._restored.arrays)  # callbacks have changed some meanwhile
            for number, callback in enumerate(self._callbacks):
                prefix = f"callback_{number}_"
                own = {
                    name.removeprefix(prefix): a for name, a in self._restored.arrays.items() if name.startswith(prefix)
                }
                callback.set_state(own)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch, step = epoch, 0
            if self._restored is not None and self._restored.step:
                step = self._restored.step
                self._assign(_running(self.model), self._restored.arrays)  # after Keras has reset them
            self._restored = None
            self._backup.position.tell(epoch, step)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            done = batch + 1
            due = time.monotonic() - self._saved > self._backup.every
            if done < self.params["steps"] and self._backup.agree(due=due):  # else the epoch ends soon
                self._save(self._epoch, done)
            if done == self.params["steps"] - 1 and self._may_leave_validation:
                self._before_validation = self._state(self._epoch, done)

        @property
        def _may_leave_validation(self) -> bool:
            """Whether a signal ends a long validation: not if other workers would wait for this one."""
            return self._backup.folder is not None and self._backup.distribution.workers == 1

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            if not interruption.is_overdue() or self._backup.distribution.workers > 1:
                return
            where = self.label
            if (state := self._before_validation) is not None:
                self._write(state)
                where += f" {_after(state.epoch, state.step)}"
            interruption.end_if_asked(where)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self._before_validation = None
            for name, value in (logs or {}).items():
                self.history.setdefault(name, []).append(float(value))
            self._backup.agree(due=False)
            self._save(epoch + 1, 0, ended=self.model.stop_training or epoch + 1 == self.params["epochs"])

        def _save(self, epoch: int, step: int, *, ended: bool = False) -> None:
            if kept := self._backup.folder is not None:
                self._write(self._state(epoch, step, ended=ended))
            if self._backup.ending:  # a signal that came since then waits: the other workers do not know of it
                interruption.end_if_asked(f"{self.label} {_after(epoch, step)}" if kept else "")

        def _state(self, epoch: int, step: int, *, ended: bool = False) -> State:
            variables = self.variables | (_running(self.model) if step else {})
            arrays = {name: variable.numpy() for name, variable in variables.items()}
            for number, callback in enumerate(self._callbacks):
                arrays |= {f"callback_{number}_{name}": a for name, a in callback.get_state().items()}
            return State(epoch, step, ended, self.history, arrays, self._backup.seconds())

        def _write(self, state: State) -> None:
            self._backup.save(state)
            self._saved = time.monotonic()

    return Recorder
