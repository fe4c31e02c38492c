"""Runs spread over devices and over processes, which are children of the test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow
TIMEOUT = 420

MIRRORED = """
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import tfopt
from tfopt.training import distribution

rng = np.random.default_rng(0)
x = rng.normal(size=(200, 6)).astype("float32")
data = tfopt.load_data((x, (x[:, 0] > 0) * 1))
keras.utils.set_random_seed(0)
layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2, "softmax")]
model = keras.Sequential([keras.Input((6,)), *layers])
stages = (tfopt.Prune(final_sparsity=0.5, epochs=2, min_steps=0), tfopt.Quantize(epochs=2, min_steps=0))
training = tfopt.Training(batch_size=16, class_weight="balanced", learning_rate=0.01)
recipe = tfopt.Recipe(stages=stages, training=training)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


options = {"teacher": model, "callbacks": [Stop()]}
results = {way: tfopt.optimize(model, recipe, data, distribute=way, **options) for way in ("mirrored", None)}
two, one = (result.report.rows for result in results.values())
print(two[0].notes)
assert any("8 for each" in note for note in two[0].notes)
for a, b in zip(two, one, strict=True):
    print(a.step, a.metrics, b.metrics, a.history, b.history)
    assert abs(a.metrics["accuracy"] - b.metrics["accuracy"]) <= 0.1
kernels = [result.model.get_weights()[0] for result in results.values()]
assert all((kernel == 0).mean() >= 0.5 for kernel in kernels)

# Pruning has no statistics of a batch, so that only the order of sums differs.
export = tfopt.Export(weights="float32", activations="float32")
pruned = tfopt.Recipe(stages=stages[:1], training=training, max_drop=None, export=export)
two, one = (
    tfopt.optimize(model, pruned, data, distribute=way, teacher=model, quiet=True).model.get_weights()
    for way in ("mirrored", None)
)
for a, b in zip(two, one, strict=True):
    print(abs(a - b).max())
    np.testing.assert_array_equal(a == 0, b == 0)
    np.testing.assert_allclose(a, b, atol=1e-4)
assert any(abs(a - b).max() > 0.01 for a, b in zip(two, model.get_weights(), strict=True))

# A worker counts once in a sum, though each of its two replicas takes part.
values = np.array([2**31 - 1, -(2**31), -5, 0], np.int32)
total = distribution._sum_over(distribution._mirrored(), 2)(values)
np.testing.assert_array_equal(total, values)

small = tfopt.Recipe(stages=stages, training=tfopt.Training(batch_size=1))
try:
    tfopt.optimize(model, small, data, distribute="mirrored")
except tfopt.RecipeError as error:
    assert "at least one sample for each of 2 replicas" in str(error)
else:
    raise AssertionError("a batch of one sample was spread over two replicas")
"""

# Each trains with two replicas to what one gives, and goes on within an epoch.
EVERY_KIND = """
import sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import tfopt
from tfopt.base import interruption
from tfopt.training import backup

rng = np.random.default_rng(0)
x = rng.normal(size=(200, 6)).astype("float32")
data = tfopt.load_data((x, (x[:, 0] > 0) + (x[:, 1] > 0) * 1))
keras.utils.set_random_seed(0)
layers = keras.layers
inputs = keras.Input((6,))
y = layers.Dense(16, activation="relu")(inputs)
for _ in range(2):
    y = layers.Add()([y, layers.Dense(16)(layers.Dense(16, activation="relu")(y))])
model = keras.Model(inputs, layers.Dense(3, activation="softmax")(y))
float32 = tfopt.Export(weights="float32", activations="float32")
some = {"epochs": 2, "min_steps": 0}
KINDS = {
    "PruneChannels": (tfopt.PruneChannels(round_to=1, **some), {}, float32),
    "LowRank": (tfopt.LowRank(rank=2, **some), {}, float32),
    "PruneBlocks": (tfopt.PruneBlocks(final_ratio=0.8, **some), {}, float32),
    "Binarize": (tfopt.Binarize(**some), {}, tfopt.Export()),
    "EMA": (tfopt.FineTune(ema_momentum=0.9, **some), {}, float32),
    "mixup": (tfopt.FineTune(**some), {"mixup": 0.4}, float32),
    "Cluster": (tfopt.Cluster(number_of_clusters=4, **some), {}, float32),
}
recorder = backup._recorder_class()
original = recorder.on_train_batch_end


def stop_at(number):
    seen = iter(range(1, 10**6))

    def at_end(self, batch, logs=None):
        if next(seen) == number:
            interruption.ask(15)
        original(self, batch, logs)

    recorder.on_train_batch_end = at_end
    return seen


kind, folder = sys.argv[1:]
stage, settings, export = KINDS[kind]
training = tfopt.Training(batch_size=16, **settings)
recipe = tfopt.Recipe(stages=(stage,), training=training, export=export, max_drop=None)
options = {"distribute": "mirrored", "quiet": True}
whole = tfopt.optimize(model, recipe, data, **options)
alone = tfopt.optimize(model, recipe, data, quiet=True)
two, one = (result.report.rows[-1].metrics["accuracy"] for result in (whole, alone))
print(kind, two, one)
assert abs(two - one) <= 0.15
stop_at(11)
try:
    tfopt.optimize(model, recipe, data, checkpoint=folder, **options)
except interruption.Interrupted:
    pass
else:
    raise AssertionError("not interrupted")
steps = stop_at(0)
result = tfopt.optimize(model, recipe, data, checkpoint=folder, **options)
assert next(steps) - 1 == 5, "the steps after the eleventh"
differences = [abs(a - b).max() for a, b in zip(result.model.get_weights(), whole.model.get_weights(), strict=True)]
print(differences)
assert max(differences) == 0
assert result.lite.data == whole.lite.data
"""


@pytest.mark.minutes
@pytest.mark.parametrize("kind", ["PruneChannels", "LowRank", "PruneBlocks", "Binarize", "EMA", "mixup", "Cluster"])
def test_two_devices_train_every_kind_and_go_on_within_an_epoch(tmp_path, kind):
    command = [sys.executable, "-c", EVERY_KIND, kind, tmp_path / "kept"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_two_devices_give_what_one_does():
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Workers:
    """Two processes of `tfopt run` on this machine, each with its TF_CONFIG and its own folder for results."""

    def __init__(self, folder, recipe, *options):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.processes, self.outputs = [], []
        for index in range(2):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(task), "TF_NUM_INTRAOP_THREADS": "1"}
            command = [sys.executable, "-m", "tfopt", "run", str(recipe), "--distribute", "multiworker", *options]
            self.outputs.append((folder / f"log_{index}.txt").open("w+"))
            self.processes.append(
                subprocess.Popen(
                    [*command, "--out", str(folder / "out")],
                    env=environment,
                    stdout=self.outputs[-1],
                    stderr=subprocess.STDOUT,
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, output in zip(self.processes, self.outputs, strict=True):
            process.kill()
            process.wait()
            output.close()

    def texts(self):
        texts = []
        for output in self.outputs:
            output.flush()
            output.seek(0)
            texts.append(output.read())
        return texts

    def codes(self):
        """The exit codes, once both have ended."""
        return [process.wait(TIMEOUT) for process in self.processes]

    def wait_for(self, words):
        end = time.monotonic() + TIMEOUT
        while words not in self.texts()[0]:
            assert time.monotonic() < end, self.texts()
            assert self.processes[0].poll() is None, self.texts()
            time.sleep(0.1)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "import tfopt\n"
        "recipe = tfopt.Recipe(name='small', max_drop=None, training=tfopt.Training(batch_size=128), stages=(\n"
        "    tfopt.Prune(final_sparsity=0.5, epochs=3, min_steps=0), tfopt.Quantize(epochs=2, min_steps=0)))\n"
    )
    return path


def test_two_workers_with_a_teacher_write_one_result(tmp_path, recipe):
    recipe.write_text(recipe.read_text().replace("stages=", "distillation=tfopt.Distillation(), stages="))
    with Workers(tmp_path, recipe) as workers:
        codes = workers.codes()
        texts = workers.texts()
    assert codes == [0, 0], "\n".join(texts)
    assert "trained by 2 replicas on 2 workers: batch_size=128 is that of all together, 64 for each" in texts[0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.tflite", "model.keras", "report.json"} <= names
    assert "wrote" in texts[0]
    assert "wrote" not in texts[1]
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert rows[-1]["metrics"]["accuracy"] > 0.6  # a small student after 33 steps of pruning


@pytest.mark.minutes
def test_a_lost_worker_ends_the_run_which_goes_on_with_the_same_command(tmp_path, recipe):
    with Workers(tmp_path, recipe) as workers:
        workers.wait_for("Prune epoch 2/3")
        workers.processes[1].kill()
        codes = workers.codes()
        text = workers.texts()[0]
    assert codes == [2, -signal.SIGKILL], text
    assert "error: Another worker was lost" in text
    assert not (tmp_path / "out" / "model.tflite").exists()
    with Workers(tmp_path, recipe) as workers:
        codes = workers.codes()
        texts = workers.texts()
    assert codes == [0, 0], "\n".join(texts)
    assert all("going on after" in text for text in texts), "\n".join(texts)


@pytest.mark.minutes
def test_a_signal_to_one_worker_ends_both(tmp_path, recipe):
    with Workers(tmp_path, recipe) as workers:
        workers.wait_for("Prune epoch 1/3")
        workers.processes[1].send_signal(signal.SIGTERM)
        codes = workers.codes()
        texts = workers.texts()
    assert codes == [143, 143], "\n".join(texts)
    assert "Run the command again to go on" in texts[0]
