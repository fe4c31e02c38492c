"""A teacher's answers are computed once, stored completely or not at all, and never used for anything else."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfopt.base.locks import locked
from tfopt.errors import DataError, ModelError, OutputError
from tfopt.teachers.cache import Answers, array_about, require_deterministic
from tfopt.teachers.precomputed import Precomputed
from tfopt.teachers.teacher import Teacher

X = np.random.default_rng(0).normal(size=(23, 3)).astype("float32")
ABOUT = {"data": "abc", "augmentation": {"seed": 7}}


def model(seed=1, scale=1.0):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(5, name="hidden")(inputs)
    made = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    rng = np.random.default_rng(seed)
    made.set_weights([scale * rng.normal(size=w.shape) for w in made.get_weights()])
    return made


def teacher(seed=1, layers=("hidden",), scale=1.0):
    return Teacher(model(seed, scale), outputs="logits").with_outputs(layers)


def expected(x, seed=1, scale=1.0):
    a, b, c, d = (np.asarray(w, np.float64) for w in model(seed, scale).get_weights())
    hidden = x.astype(np.float64) @ a + b
    return {"output": hidden @ c + d, "hidden": hidden}


class Batches:
    """Count how often batches are requested."""

    def __init__(self, x=X, size=5):
        self.x, self.size, self.calls = x, size, 0

    def __call__(self):
        self.calls += 1
        for start in range(0, len(self.x), self.size):
            yield self.x[start : start + self.size]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """Make teachers run in several batches of at most 16 even here."""
    monkeypatch.setattr("tfopt.teachers.batching._BATCH_BYTES", 1)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def check(found, x=X, **settings):
    right = expected(x, **settings)
    np.testing.assert_allclose(found["output"], right["output"], atol=1e-5)
    np.testing.assert_allclose(found["hidden"], right["hidden"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kept", ["memory", "disk"])
def test_a_view_is_computed_once_and_in_order(kept, tmp_path):
    batches, other = Batches(), Batches(2 * X, size=23)
    answers = Answers(teacher(), ABOUT, 23, folder=tmp_path / "a" if kept == "disk" else None)
    for _ in range(2):
        check(answers.view(0, batches))
        check(answers.view(1, other), 2 * X)
    assert (batches.calls, other.calls) == (1, 1)
    found = answers.view(0, batches)
    assert found["output"].dtype == np.float32
    assert found["hidden"].dtype == np.float16
    with pytest.raises(ValueError, match="read-only"):
        found["output"][0] = 0


def test_a_folder_serves_later_runs(tmp_path):
    Answers(teacher(), ABOUT, 23, folder=tmp_path).view(0, Batches())
    batches = Batches()
    again = Answers(teacher(), ABOUT, 23, folder=tmp_path)
    found = again.view(0, batches)
    check(found)
    assert batches.calls == 0
    assert isinstance(found["output"], np.memmap)
    assert again.notes == []
    assert len(files(tmp_path)) == 3  # meta.json, two arrays and nothing else


def changed_teacher():
    return {"teacher": teacher(seed=2)}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (changed_teacher, ["teacher.fingerprint was"]),
        (lambda: {"teacher": teacher(layers=())}, ['teacher.layers was ["hidden"], is []']),
        (lambda: {"about": {**ABOUT, "data": "abd"}}, ['about.data was "abc", is "abd"']),
        (lambda: {"about": {"data": "abc", "augmentation": {"seed": 8}}}, ["about.augmentation.seed was 7, is 8"]),
        (
            lambda: {"about": {"data": "abc"}, "count": 24},
            ['about.augmentation was {"seed": 7}, is nothing', "count was 23, is 24"],
        ),
        (
            lambda: {"teacher": Teacher(model()).with_outputs(["hidden"]).resolved(X, "regression")},
            ['form was "logits"'],
        ),
        (
            lambda: {
                "teacher": Teacher(model(), outputs="logits", preprocessing="unit")
                .with_outputs(["hidden"])
                .for_inputs("raw")
            },
            ["teacher.fed.factor was 1.0, is 0.0039"],
        ),
    ],
)
def test_answers_to_something_else_are_refused_by_what_differs(changes, parts, tmp_path):
    Answers(teacher(), ABOUT, 23, folder=tmp_path).view(0, Batches())
    settings = {"teacher": teacher(), "about": ABOUT, "count": 23} | changes()
    with pytest.raises(DataError) as error:
        Answers(**settings, folder=tmp_path)
    for part in (*parts, "Delete the folder, or name another"):
        assert part in str(error.value)
    assert str(error.value).count(" was ") == len(parts)


def test_a_name_is_not_part_of_the_key(tmp_path):
    Answers(teacher(), ABOUT, 23, folder=tmp_path).view(0, Batches())
    renamed = Teacher(model(), outputs="logits", name="other").with_outputs(["hidden"])
    check(Answers(renamed, ABOUT, 23, folder=tmp_path).view(0, None))


def test_code_is_kept_in_memory_only(tmp_path):
    function = Teacher(lambda x: x, outputs="logits", name="mine")
    with pytest.raises(DataError, match=r"answers of 'mine' are not kept in .*it is a function"):
        Answers(function, ABOUT, 23, folder=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    np.testing.assert_array_equal(Answers(function, ABOUT, 23).view(0, Batches())["output"], X)


@pytest.mark.parametrize("folder", ["", "a"])
def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").touch()
    with pytest.raises(DataError, match=r"no meta\.json"):
        Answers(teacher(), ABOUT, 23, folder=tmp_path / folder)
    (tmp_path / "a" / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta\.json cannot be read"):
        Answers(teacher(), ABOUT, 23, folder=tmp_path / "a")
    with pytest.raises(DataError, match="is a file"):
        Answers(teacher(), ABOUT, 23, folder=tmp_path / "a" / "thesis.txt")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def emptied(path):
    path.write_bytes(b"")


def turned(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def shortened(path):
    np.save(path, np.load(path)[:-1])


def gone(path):
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, emptied, turned, shortened, gone])
@pytest.mark.parametrize("what", ["output", "feature0"])
def test_a_damaged_view_is_computed_again(damage, what, tmp_path):
    Answers(teacher(), ABOUT, 23, folder=tmp_path).view(0, Batches())
    (path,) = tmp_path.glob(f"view0-{what}-*")
    damage(path)
    batches = Batches()
    answers = Answers(teacher(), ABOUT, 23, folder=tmp_path)
    check(answers.view(0, batches))
    assert batches.calls == 1
    assert damage is gone or "view 0 in" in answers.notes[0]
    check(Answers(teacher(), ABOUT, 23, folder=tmp_path).view(0, None))


def test_an_interrupted_view_leaves_nothing(tmp_path):
    answers = Answers(teacher(), ABOUT, 23, folder=tmp_path)
    seen = []

    def interrupted():
        yield from Batches()()
        seen[:] = files(tmp_path)  # the first 15 answers are being written at this point
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers.view(0, interrupted)
    assert [name[:6] for name in seen] == [".lock", ".view0", ".view0", "meta.j"]
    assert files(tmp_path) == ["meta.json"]
    check(answers.view(0, Batches()))


@pytest.mark.parametrize(("count", "came"), [(22, "more"), (24, "23"), (600, "23")])
def test_each_sample_is_answered_once(count, came, tmp_path):
    with pytest.raises(DataError, match=f"Expected {count} samples in view 0, got {came}"):
        Answers(teacher(), ABOUT, count, folder=tmp_path).view(0, Batches())
    assert files(tmp_path) == ["meta.json"]
    with pytest.raises(DataError, match=f"Expected {count} samples in view 0, got {came}"):
        Answers(teacher(), ABOUT, count).view(0, Batches())


def test_features_too_large_for_float16_are_float32(tmp_path):
    big = np.concatenate([X] * 40) * np.float32(1e-3)
    big[-1] = 1e5  # in the last batch
    answers = Answers(teacher(), ABOUT, len(big), folder=tmp_path)
    found = answers.view(0, Batches(big, size=512))
    assert found["hidden"].dtype == np.float32
    np.testing.assert_allclose(found["hidden"], expected(big)["hidden"], rtol=1e-4, atol=1e-4)
    assert "'hidden' are too large for float16" in answers.notes[0]
    assert len(files(tmp_path)) == 3


def test_a_teacher_that_changes_meanwhile_is_refused(tmp_path):
    changing = model()
    answers = Answers(Teacher(changing, outputs="logits").with_outputs(["hidden"]), ABOUT, 23, folder=tmp_path)
    answers.view(0, Batches())
    changing.set_weights([2 * w for w in changing.get_weights()])
    batches = Batches()
    with pytest.raises(DataError, match="changed while its answers were being computed"):
        answers.view(1, batches)
    assert batches.calls == 0

    def trained_meanwhile():
        yield X
        changing.set_weights([3 * w for w in changing.get_weights()])

    answers = Answers(Teacher(changing, outputs="logits"), ABOUT, 23, folder=tmp_path / "b")
    with pytest.raises(DataError, match="changed while its answers were being computed"):
        answers.view(0, trained_meanwhile)
    assert files(tmp_path / "b") == ["meta.json"]


def test_disk_space_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    answers = Answers(teacher(), ABOUT, 23, folder=tmp_path)
    assert answers.bytes_per_view(X[:4]) == 23 * (2 * 4 + 5 * 2)

    class Full:
        free = 2**28 + 23 * (2 * 4 + 5 * 2) - 1

    monkeypatch.setattr("shutil.disk_usage", lambda path: Full)
    with pytest.raises(OutputError, match=r"has 0\.25 GiB free. Make room"):
        answers.view(0, Batches())
    assert files(tmp_path) == ["meta.json"]
    Full.free += 1
    check(answers.view(0, Batches()))


def test_nan_is_not_kept(tmp_path):
    x = X.copy()
    x[20] = np.nan
    with pytest.raises(ModelError, match="NaN or infinity for 1 of 8 samples, the first at index 20"):
        Answers(teacher(), ABOUT, 23, folder=tmp_path).view(0, Batches(x))
    assert files(tmp_path) == ["meta.json"]


def test_labels_come_with_the_inputs():
    class Labeled(Teacher):
        def answers(self, x, labels=None):
            return {"output": x + tf.cast(labels, tf.float32)[:, None]}

    y = np.arange(23)
    answers = Answers(Labeled(lambda x: x, outputs="logits"), ABOUT, 23)
    found = answers.view(0, lambda: ((X[i : i + 4], y[i : i + 4]) for i in range(0, 23, 4)))
    np.testing.assert_allclose(found["output"], X + y[:, None], rtol=1e-6)


def test_precomputed_outputs_are_a_view(tmp_path):
    given = Precomputed(X, "logits")
    answers = Answers(given, ABOUT, 23, folder=tmp_path / "a")
    np.testing.assert_array_equal(answers.view(0, None)["output"], X)
    assert not (tmp_path / "a").exists()  # the file they came from belongs to the caller
    assert answers.bytes_per_view(None) == X.nbytes
    with pytest.raises(DataError, match="not for augmented view 1"):
        answers.view(1, None)
    with pytest.raises(DataError, match="each of the 24 training samples, got 23"):
        Answers(given, ABOUT, 24).view(0, None)


def test_what_the_answers_depend_on_is_plain():
    with pytest.raises(DataError, match="plain values"):
        Answers(teacher(), {"data": object()}, 23)
    with pytest.raises(DataError, match="at least 1 sample"):
        Answers(teacher(), ABOUT, 0)


def test_runs_at_once_get_whole_answers(tmp_path):
    """All start at the same time; one computes, and the others wait for it."""
    together, batches = threading.Barrier(3, timeout=60), Batches()

    def run(number):
        together.wait()
        answers = Answers(teacher(), ABOUT, 23, folder=tmp_path / "a", quiet=True)
        return answers.view(0, batches), answers.notes

    with ThreadPoolExecutor() as pool:
        for found, notes in pool.map(run, range(3)):
            check(found)
            assert notes == []
    assert batches.calls == 1  # the others waited
    check(Answers(teacher(), ABOUT, 23, folder=tmp_path / "a").view(0, None))
    assert len(files(tmp_path / "a")) == 3


def test_of_two_runs_with_different_keys_one_is_refused(tmp_path, monkeypatch):
    """The other run claims the folder between this run's check and its own claim."""
    from tfopt.teachers import cache

    first = cache._write_first

    def late(path, text):
        monkeypatch.setattr(cache, "_write_first", first)
        Answers(teacher(), {**ABOUT, "data": "other"}, 23, folder=tmp_path)
        first(path, text)

    monkeypatch.setattr(cache, "_write_first", late)
    with pytest.raises(DataError, match=r'about\.data was "other", is "abc"'):
        Answers(teacher(), ABOUT, 23, folder=tmp_path)


def test_two_keys_never_share_a_file(tmp_path):
    """One run is still computing when another one deletes and claims its folder."""
    slow = Answers(teacher(), ABOUT, 23, folder=tmp_path)
    (tmp_path / "meta.json").unlink()
    other = Answers(teacher(), {**ABOUT, "data": "other"}, 23, folder=tmp_path)
    slow.view(0, Batches())
    batches = Batches(2 * X)
    check(other.view(0, batches), 2 * X)
    assert batches.calls == 1


# Fingerprints of inputs, and pipelines that change


def test_arrays_are_distinguished():
    base = array_about(X)
    assert base["shape"] == [23, 3]
    assert base == array_about(np.asfortranarray(X))
    others = [X + 1e-6, X[:-1], X.reshape(3, 23), X.astype("float64"), X[::-1]]
    assert all(array_about(other) != base for other in others)
    assert array_about({"a": X, "b": [X, 1 + X]}) == {"a": base, "b": {"0": base, "1": array_about(1 + X)}}
    json.dumps(array_about((X, X)))
    with pytest.raises(DataError, match="array of numbers"):
        array_about(np.array([object()]))


def pipeline(change=None):
    data = tf.data.Dataset.from_tensor_slices((np.arange(40.0).reshape(20, 2), np.arange(20)))
    return change(data).batch(4) if change else data.batch(4)


def noisy(data):
    # Not tf.random: it repeats itself once another test has set its global seed.
    rng = np.random.default_rng()
    return data.map(lambda x, y: (x + tf.ensure_shape(tf.numpy_function(rng.random, (), tf.float64), ()), y))


def seeded(data):
    return data.map(lambda x, y: (x + tf.random.stateless_uniform((), tf.cast((y, 1), tf.int32), dtype=x.dtype), y))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, None),
        (seeded, None),
        (lambda data: data.shuffle(20, seed=1, reshuffle_each_iteration=False), None),
        (lambda data: data.repeat(), None),
        (lambda data: data.shuffle(12, seed=1), "same samples come in a different order"),
        (noisy, "augmented without a seed"),
    ],
)
def test_pipelines_that_change_are_refused_with_the_reason(change, why):
    if why is None:
        require_deterministic(pipeline(change))
        return
    with pytest.raises(DataError, match=why):
        require_deterministic(pipeline(change), batches=5)


class Said:
    """A progress that lets `then` go on when a line is printed."""

    console = Console(quiet=True)

    def __init__(self):
        self.lines, self.heard = [], threading.Event()

    def say(self, line):
        self.lines.append(line)
        self.heard.set()


def test_a_second_run_waits_for_the_answers_of_the_first(tmp_path):
    first, second, said, unused = tmp_path / "first", tmp_path / "second", Said(), Batches()
    made = Answers(teacher(), ABOUT, 23, folder=first).view(0, Batches())
    waiting = Answers(teacher(), ABOUT, 23, folder=second, progress=said)
    (second / ".view0-output.0123456789ab.npy").write_text("of a dead process")
    with ThreadPoolExecutor() as pool:
        with locked(second / ".lock", "it"):
            found = pool.submit(waiting.view, 0, unused)
            assert said.heard.wait(30)
            for path in first.glob("view*"):
                shutil.copy(path, second)
        np.testing.assert_array_equal(found.result(30)["output"], made["output"])
    assert unused.calls == 0 and files(second) == files(first)
    assert said.lines[0].startswith(f"waiting: The cache {second} is in use by process ")
