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
# Pruning has no statistics of a batch, so that only the order of sums differs.
kernels = [result.model.get_weights()[0] for result in results.values()]
assert all((kernel == 0).mean() >= 0.5 for kernel in kernels)
try:
    small = tfopt.Recipe(stages=stages, training=tfopt.Training(batch_size=1))
    tfopt.optimize(model, small, data, distribute="mirrored")
except tfopt.RecipeError as error:
    assert "at least one sample for each of 2 replicas" in str(error)
"""


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


def test_a_signal_to_one_worker_ends_both(tmp_path, recipe):
    with Workers(tmp_path, recipe) as workers:
        workers.wait_for("Prune epoch 1/3")
        workers.processes[1].send_signal(signal.SIGTERM)
        codes = workers.codes()
        texts = workers.texts()
    assert codes == [143, 143], "\n".join(texts)
    assert "Run the command again to go on" in texts[0]
