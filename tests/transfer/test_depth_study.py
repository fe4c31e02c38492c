"""A depth study under what may go wrong: a full disk, an interruption."""

import errno

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.progress import Progress
from tfopt.transfer import depth_study


class Seen(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines, self.bars = [], []

    def say(self, text):
        self.lines.append(text)

    def callback(self, label):
        self.bars.append(super().callback(label))
        self.bars[-1].stop = lambda: self.lines.append("bar stopped")
        return self.bars[-1]


@pytest.fixture
def given():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    layers = [keras.layers.Dense(4, "relu"), keras.layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((4,)), *layers]), tfopt.load_data((x, np.arange(60) % 3))


STUDY = tfopt.transfer.DepthStudy(epochs=1, places=1, batch_size=32)


def test_a_full_disk_is_a_note(given, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(depth_study.np, "savez", full)
    monkeypatch.setattr(depth_study._Study, "_fitted", lambda *_: (0.5, 0.5, given[0].get_weights()))
    seen = Seen()
    STUDY.transferred(*given, cache=tmp_path, progress=seen)
    said = "note: the study does not keep a network ([Errno 28] No space left on device); it goes on"
    assert seen.lines == [said] * 5


def test_no_bar_stays_after_an_interruption(given, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(depth_study.Backup, "fit", interrupted)
    seen = Seen()
    with pytest.raises(KeyboardInterrupt):
        STUDY.transferred(*given, progress=seen)
    assert seen.lines[-1] == "bar stopped" and len(seen.bars) == 1


def test_no_bar_of_a_head_stays_after_an_interruption(given, monkeypatch):
    from tfopt.base.keras_compat import tf_keras

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tf_keras().Model, "fit", interrupted)
    seen = Seen()
    with pytest.raises(KeyboardInterrupt):
        tfopt.transfer.FeatureTransfer(epochs=1).transferred(*given, progress=seen)
    assert seen.lines[-1] == "bar stopped"
