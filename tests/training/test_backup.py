"""The backups of one training: the last two stay, damaged ones are passed over, and a full disk ends nothing."""

import errno

import numpy as np
import pytest

from tfopt.base import interruption
from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.training import backup as backups
from tfopt.training.backup import Backup

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X @ np.array([[1.0], [-2.0], [0.5]], "float32")


class Said(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines, self.events = [], []

    def say(self, text):
        self.lines.append(text)

    def tell(self, event, **values):
        self.events.append((event, values))


def fitted(backup, epochs=4, callbacks=(), steps=None, optimizer="Adam"):
    """Fit a small model; return its weights and the history."""
    import tensorflow as tf

    package = tf_keras()
    package.utils.set_random_seed(0)
    layers = [package.layers.Dense(4), package.layers.Dropout(0.5), package.layers.Dense(1)]
    model = package.Sequential([package.Input((3,)), *layers])
    model.compile(getattr(package.optimizers, optimizer)(0.01), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(6)
    if steps:  # alike, as these batches know no position
        batches = batches.take(1).repeat(steps)
    more = {"validation_data": batches} if steps else {}
    history = backup.fit(model, batches, epochs=epochs, callbacks=list(callbacks), label="it", verbose=0, **more)
    return model.get_weights(), history


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first[0], second[0], strict=True)) and first[1] == second[1]


class StopError(Exception):
    pass


def stopping(epoch):
    def stop(number, logs):
        if number == epoch:
            raise StopError

    return tf_keras().callbacks.LambdaCallback(on_epoch_begin=stop)


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(StopError):
        fitted(Backup(tmp_path), callbacks=[stopping(3)])
    assert names(tmp_path) == ["state_1.npz", "state_2.npz"]
    return Backup(tmp_path, progress=Said())


def test_it_goes_on_after_the_last_epoch(stopped):
    assert same(fitted(stopped), fitted(Backup()))
    assert stopped.progress.lines == ["it: going on after epoch 3"]
    assert stopped.progress.events == [("resumed", {"epochs": 3, "rows": 0})]
    assert names(stopped.folder) == ["state_2.npz", "state_3.npz"]
    assert same(fitted(stopped), fitted(Backup()))
    assert stopped.progress.lines[-1] == "it: going on after epoch 4"


@pytest.mark.parametrize("damage", ["text", "short", "other"])
def test_a_damaged_backup_costs_an_epoch(stopped, damage):
    path = stopped.folder / "state_2.npz"
    if damage == "text":
        path.write_text("not a backup")
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        stored = dict(np.load(path))
        np.savez(path, **{**stored, "variable_0": np.zeros((9, 9), "float32")})
    (stopped.folder / "state_old.npz").write_text("mine")
    assert same(fitted(stopped), fitted(Backup()))
    note, going_on = stopped.progress.lines
    assert note.startswith(f"note: The checkpoint {path} is damaged (") and note.endswith("). Ignoring it.")
    assert going_on == "it: going on after epoch 2"


def test_the_seconds_of_all_processes_add_up(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 10))  # each look at it takes ten seconds
    monkeypatch.setattr(backups.time, "monotonic", lambda: next(clock))
    with pytest.raises(StopError):
        fitted(Backup(tmp_path), callbacks=[stopping(1)])
    after_first = Backup(tmp_path)
    with pytest.raises(StopError):
        fitted(after_first, callbacks=[stopping(2)])
    after_second = Backup(tmp_path)
    fitted(after_second)
    assert after_first.seconds_before > 0
    assert after_second.seconds_before == 2 * after_first.seconds_before


def test_the_interval_of_a_block(tmp_path):
    with backups.backing_up_every(5.0):
        assert Backup(tmp_path).every == 5.0 and Backup(tmp_path, 7.0).every == 7.0
    assert Backup(tmp_path).every == 600.0


def test_only_damaged_backups_start_the_training_over(stopped):
    for path in stopped.folder.iterdir():
        path.write_text("not a backup")
    assert same(fitted(stopped), fitted(Backup()))
    assert len(stopped.progress.lines) == 2


def test_a_full_disk_is_a_note(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backups.np, "savez", full)
    kept = Backup(tmp_path, progress=Said())
    assert same(fitted(kept), fitted(Backup()))
    assert len(kept.progress.lines) == 4
    assert set(kept.progress.lines) == {
        "note: no checkpoint was written ([Errno 28] No space left on device); the training goes on"
    }
    assert names(tmp_path) == []


def test_within_an_epoch_there_is_one_each_time_the_interval_is_over(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Backup, "save", lambda backup, state: saved.append((state.epoch, state.step, state.ended)))
    fitted(Backup(tmp_path, every=0.0), epochs=2)  # of four steps each
    assert saved == [(0, 1, False), (0, 2, False), (0, 3, False), (1, 0, False), (1, 1, False), (1, 2, False),
                     (1, 3, False), (2, 0, True)]  # fmt: skip
    saved.clear()
    fitted(Backup(tmp_path, every=600.0), epochs=2)
    assert saved == [(1, 0, False), (2, 0, True)]


def test_a_training_that_ended_early_stays_ended(tmp_path):
    def ending():
        return tf_keras().callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)

    first = fitted(Backup(tmp_path), callbacks=[ending()])
    assert len(first[1]["loss"]) == 2
    assert same(fitted(Backup(tmp_path)), first)


@pytest.mark.parametrize("steps", [4, 1])
def test_a_signal_in_a_long_validation_costs_no_epoch(tmp_path, monkeypatch, steps):
    """A single step is as much as the epoch."""
    seen = []

    def ask(batch, logs):
        if len(seen) == 2 * steps:  # of the second epoch
            monkeypatch.setattr(interruption._Request, "number", 15)
            monkeypatch.setattr(interruption._Request, "since", -float("inf"))

    def step():
        return tf_keras().callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))

    asking = tf_keras().callbacks.LambdaCallback()
    asking.on_test_batch_end = ask
    with pytest.raises(interruption.Interrupted) as caught:
        fitted(Backup(tmp_path), callbacks=[step(), asking], steps=steps)
    assert str(caught.value) == ("it after 3 steps of epoch 2" if steps > 1 else "it")
    seen.clear()
    result = fitted(Backup(tmp_path), callbacks=[step()], steps=steps)
    assert len(seen) == (1 + 2 * steps if steps > 1 else 3)  # a step, and two more epochs
    assert same(result, fitted(Backup(), steps=steps))


@pytest.mark.parametrize(("kept", "where"), [(True, "it after 2 steps of epoch 1"), (False, "")])
def test_an_interrupted_training_says_what_is_saved(kept, where, tmp_path, monkeypatch):
    def ask(batch, logs):
        if batch == 1:
            monkeypatch.setattr(interruption._Request, "number", 15)

    asking = tf_keras().callbacks.LambdaCallback(on_batch_end=ask)
    with pytest.raises(interruption.Interrupted) as caught:
        fitted(Backup(tmp_path if kept else None), callbacks=[asking])
    assert str(caught.value) == where


def test_a_signal_after_the_workers_have_agreed_waits_for_the_next_step(tmp_path, monkeypatch):
    """Ended alone, a worker would be lost to the others."""

    class Asking(tf_keras().callbacks.Callback):
        saves = 0

        def get_state(self):  # while the second epoch is saved
            self.saves += 1
            if self.saves == 4:  # each epoch is copied before its last step, too
                monkeypatch.setattr(interruption._Request, "number", 15)
            return {}

        def set_state(self, state):
            pass

    with pytest.raises(interruption.Interrupted) as caught:
        fitted(Backup(tmp_path), callbacks=[Asking()])
    assert str(caught.value) == "it after 1 step of epoch 3"


@pytest.mark.parametrize("optimizer", ["Nadam", "Adamax", "RMSprop", "Adagrad", "AdamW", "SGD"])
def test_every_optimizer_goes_on_as_if_nothing_had_been(tmp_path, optimizer):
    """Nadam holds a product that is none of its variables."""
    with pytest.raises(StopError):
        fitted(Backup(tmp_path), callbacks=[stopping(2)], optimizer=optimizer)
    assert same(fitted(Backup(tmp_path), optimizer=optimizer), fitted(Backup(), optimizer=optimizer))


def test_the_state_of_a_large_model_is_read_again(tmp_path):
    """A network of a thousand layers has tens of thousands of arrays with their slots."""
    arrays = {f"variable_{number}": np.float32(number) for number in range(10_050)}
    Backup(tmp_path).save(backups.State(1, 0, False, {}, arrays))
    (path,) = Backup(tmp_path)._paths()
    state = backups._read(path, {})
    assert len(state.arrays) == 10_050 and state.arrays["variable_10049"] == 10_049


def test_an_old_backup_that_cannot_be_removed_is_a_note(tmp_path):
    for number in range(2):
        (tmp_path / f"state_{number}.npz").mkdir()
    backup = Backup(tmp_path, progress=Said())
    backup.save(backups.State(1, 0, False, {}, {}))
    assert (tmp_path / "state_2.npz").is_file()
    assert backup.progress.lines[0].startswith("note: no checkpoint was written (")
