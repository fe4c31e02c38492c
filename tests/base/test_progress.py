"""Events and live lines. Rates and times are computed by hand."""

import io

import pytest

from tfopt.base.progress import Progress, TerminalBar, pace


@pytest.mark.parametrize(
    ("done", "remaining", "seconds", "expected"),
    [
        (0, 10, 3.0, ""),
        (20, 30, 10.0, "2/s, 0:15 left"),
        (100, 36_100, 100.0, "1/s, 10:01:40 left"),
        (1, 61, 1.0, "1/s, 1:01 left"),
        (5, None, 2.0, "2.5/s, 0:00 left"),
    ],
)
def test_pace(done, remaining, seconds, expected):
    assert pace(done, remaining, seconds) == expected


def test_lines_are_events_with_their_context():
    heard = []
    progress = Progress(stream=io.StringIO(), listeners=[lambda *event: heard.append(event)])
    progress.say("note: few samples")
    progress.within(stage="Prune").within(number=2).say("calibrating")
    progress.tell("row", step="original")
    assert heard == [
        ("note", {"text": "few samples"}),
        ("message", {"stage": "Prune", "number": 2, "text": "calibrating"}),
        ("row", {"step": "original"}),
    ]


def fitted(progress, epochs=3, begin=0):
    callback = progress.callback("1/2 Prune")
    callback.set_params({"epochs": epochs, "steps": 4})
    for epoch in range(begin, epochs):
        callback.on_epoch_begin(epoch)
        for batch in range(4):
            callback.on_train_batch_end(batch)
        callback.on_epoch_end(epoch, {"loss": 0.5 / (epoch + 1)})
    return callback


def test_epochs_are_plain_lines_and_events():
    heard, stream = [], io.StringIO()
    fitted(Progress(stream=stream, listeners=[lambda *event: heard.append(event)]), epochs=2).on_train_end()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("1/2 Prune epoch 1/2  loss 0.5000") and "epoch 2/2  loss 0.2500" in second
    epochs = [values for event, values in heard if event == "epoch"]
    assert [(each["epoch"], each["epochs"], each["metrics"]) for each in epochs] == [
        (1, 2, {"loss": 0.5}),
        (2, 2, {"loss": 0.25}),
    ]
    assert epochs[0]["learning_rate"] is None and epochs[0]["seconds"] >= 0


def test_one_live_line_for_all_epochs_of_a_stage(monkeypatch):
    """It counts all steps of the stage, from where an interrupted training goes on, and ends with the training."""
    bars = []
    monkeypatch.setattr("tfopt.base.progress.live_bar", lambda *given: bars.append(Bar(*given)) or bars[-1])

    class Bar:
        def __init__(self, output, title, total, done=0):
            self.given, self.updates, self.stopped = (title, total, done), [], False

        def update(self, done, title=None):
            self.updates.append((done, title))

        def stop(self):
            self.stopped = True

    callback = fitted(Progress(stream=io.StringIO()), epochs=3, begin=1)
    (bar,) = bars
    assert bar.given == ("1/2 Prune epoch 2/3", 12, 4)
    assert bar.updates[:5] == [*((done, None) for done in (5, 6, 7, 8)), (8, "1/2 Prune epoch 3/3")]
    assert bar.updates[-1] == (12, None) and not bar.stopped
    callback.on_train_end()
    assert bar.stopped


def test_the_live_line_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.console._force_terminal = progress.console.is_interactive = True
    progress.console.width = 120
    bar = TerminalBar(progress.console, "fit", 10)
    bar.update(4, "fit epoch 2/2")
    bar.stop()
    assert "fit epoch 2/2" in stream.getvalue() and "4/10" in stream.getvalue() and "/s, " in stream.getvalue()
    with progress.during("exporting"):
        pass
    assert "0:00:00" in stream.getvalue()


def test_work_without_steps_is_one_line_in_a_log():
    stream = io.StringIO()
    with Progress(stream=stream).during("exporting"):
        pass
    assert stream.getvalue() == "exporting\n"
