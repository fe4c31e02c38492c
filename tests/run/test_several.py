"""Runs on models with several inputs and outputs: training, guard, report, file, verification."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import bridge, cli
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, RecipeError
from tfopt.evaluate.bench import benchmark_files, outputs_of, ports_by_output
from tfopt.evaluate.compare import compare_files
from tfopt.evaluate.verify import verify_file
from tfopt.run.guard import Guard
from tfopt.training.outputs import objective

COUNT = 400
RNG = np.random.default_rng(0)
FACTS = RNG.normal(size=(COUNT, 4)).astype("float32")
SIGNAL = RNG.normal(size=(COUNT, 6, 2)).astype("float32")
KIND = (SIGNAL.mean((1, 2)) + FACTS[:, 0] > 0).astype("int64")
AGE = (40 + 10 * FACTS[:, 1]).astype("float32")
X, Y = {"signal": SIGNAL, "facts": FACTS}, {"kind": KIND, "age": AGE}
SHORT = tfopt.Training(batch_size=32, learning_rate=0.01)


def net(api=keras, *, structure="list"):
    api.utils.set_random_seed(0)
    signal, facts = api.Input((6, 2), name="signal"), api.Input((4,), name="facts")
    read = api.layers.GlobalAveragePooling1D()(api.layers.Conv1D(8, 3, activation="relu", name="conv")(signal))
    joined = api.layers.Dense(16, activation="relu", name="mix")(api.layers.Concatenate()([read, facts]))
    kind = api.layers.Dense(2, activation="softmax", name="kind")(joined)
    age = api.layers.Dense(1, name="age")(joined)
    if structure == "dict":
        return api.Model({"signal": signal, "facts": facts}, {"kind": kind, "age": age})
    return api.Model([signal, facts], [kind, age])


@pytest.fixture(scope="module")
def data():
    return tfopt.load_data((X, Y))


@pytest.fixture(scope="module")
def trained():
    model = net()
    model.compile(keras.optimizers.Adam(0.02), {"kind": "sparse_categorical_crossentropy", "age": "mse"}, [1.0, 0.01])
    model.fit(X, Y, epochs=20, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def result(trained, data):
    stages = (tfopt.Prune(epochs=15, min_steps=0, final_sparsity=0.5), tfopt.Quantize(epochs=2, min_steps=0))
    return tfopt.optimize(trained, tfopt.Recipe(stages=stages, training=SHORT, max_drop=0.15), data, quiet=True)


def predicted(model):
    """The outputs for all samples by name."""
    outputs = model.predict(X, verbose=0)
    return outputs if isinstance(outputs, dict) else dict(zip(model.output_names, outputs, strict=True))


def test_all_outputs_are_measured_on_the_file(result, data):
    last, test = result.report.rows[-1], data.test
    outputs = dict(zip([port.name for port in result.lite.outputs], result.lite.predict(test.x()), strict=True))
    right = float(np.mean(outputs["kind"].argmax(-1) == test.y()["kind"]))
    assert last.metrics["kind_accuracy"] == pytest.approx(right)
    assert last.metrics["age_mae"] == pytest.approx(np.abs(outputs["age"][:, 0] - test.y()["age"]).mean(), rel=1e-4)
    assert set(last.metrics) == {"kind_accuracy", "age_mse", "age_mae"}
    assert right > 0.8 and last.metrics["age_mae"] < 5 and result.verdict.ok


def test_promises_hold_in_the_file(result):
    kernels = [weight.values for weight in result.lite.weights()]
    assert len(kernels) == 4 and all((kernel == 0).mean() >= 0.49 for kernel in kernels)
    assert not result.lite.float_tensors()


def test_the_model_returns_in_its_keras_with_its_names(result, trained):
    assert isinstance(result.model, keras.Model) and result.model.output_names == trained.output_names
    for name, values in predicted(result.model).items():
        assert np.corrcoef(values.ravel(), predicted(trained)[name].ravel())[0, 1] > 0.95


def test_a_saved_result_is_verified_compared_and_timed(result, data, tmp_path):
    folder = result.save(tmp_path / "out")
    found = verify_file(folder / "model.keras", folder / "model.tflite", data)
    assert [output.name for output in found.outputs] == ["kind", "age"] and not found.problems
    assert found.agreement > 0.9 and "age: MAE: model" in str(found)
    table = compare_files(folder / "model.tflite", folder / "model.keras", data)
    assert "kind accuracy" in [*table.columns[0].cells] and "kind agreement" in [*table.columns[0].cells]
    (measured,) = benchmark_files([folder / "model.tflite"], data, rounds=1)
    assert measured.metrics == pytest.approx(result.report.rows[-1].metrics)


def test_outputs_of_a_file_in_another_order_are_found_by_name(data):
    named = tfopt.data.names.named_as(net(), data)
    ports = [SimpleNamespace(name="age"), SimpleNamespace(name="kind")]
    file = SimpleNamespace(
        outputs=ports, predict=lambda x: [np.zeros((len(x["facts"]), 1)), np.ones((len(x["facts"]), 2))]
    )
    assert ports_by_output(file, named) == {"age": ports[0], "kind": ports[1]}
    found = outputs_of(file, named)
    assert list(found) == ["kind", "age"] and found["age"].shape[1:] == (1,) and found["kind"].shape[1:] == (2,)


def test_the_command_line_takes_such_files(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", **{f"x/{name}": X[name] for name in X}, **{f"y/{name}": Y[name] for name in Y})
    (tmp_path / "recipe.json").write_text(tfopt.Recipe(stages=(tfopt.PostTraining(),)).to_json())
    arguments = [tmp_path / "recipe.json", "--model", tmp_path / "model.keras", "--data", tmp_path / "data.npz"]
    done = CliRunner().invoke(cli.main, ["run", *map(str, arguments), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "kind accuracy" in done.output
    files = [str(tmp_path / "out" / name) for name in ("model.keras", "model.tflite")]
    done = CliRunner().invoke(cli.main, ["verify", *files, "--data", str(tmp_path / "data.npz")])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_dicts_go_in_and_come_out(api, data):
    model = net(api, structure="dict")
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=10), tfopt.PostTraining()), training=SHORT)
    result = tfopt.optimize(model, recipe, data, quiet=True)
    assert set(predicted(result.model)) == {"kind", "age"} and isinstance(result.model, api.Model)
    assert result.report.rows[-1].metrics["kind_accuracy"] > 0.8


def test_losses_are_the_compiled_ones(trained, data):
    flat = bridge.to_tf_keras(trained)
    loss, logits = objective(flat, tfopt.Training(), tfopt.data.names.named_as(flat, data))
    assert loss.losses == {"kind": "sparse_categorical_crossentropy", "age": "mse"}
    assert loss.weights == {"kind": 1.0, "age": 0.01} and logits == {"kind": False, "age": False}


def test_errors_of_values_weigh_as_their_variance_without_compiled_losses(data):
    flat = bridge.to_tf_keras(net())
    loss, _ = objective(flat, tfopt.Training(), tfopt.data.names.named_as(flat, data))
    assert loss.weights == {"kind": 1.0, "age": pytest.approx(1 / np.var(data.train.labels["age"]), rel=1e-4)}


def test_the_guard_watches_the_mean_of_the_outputs(data):
    named = tfopt.data.names.named_as(net(), data)
    guard = Guard(named, 0.05, logits={"kind": False, "age": False})
    labels, mean = named.validation.y(), named.train.y()["age"].mean()
    exact = [np.eye(2)[labels["kind"]], labels["age"][:, None]]
    assert guard.evaluate(lambda x: exact).quality == pytest.approx(1)
    guessed = [exact[0], np.full_like(exact[1], mean)]  # half of the outputs are as good as guessing
    unit = np.abs(named.train.y()["age"] - mean).mean()
    expected = (1 + 1 - np.abs(labels["age"] - mean).mean() / unit) / 2
    assert guard.evaluate(lambda x: guessed).quality == pytest.approx(expected, rel=1e-4)
    guard.accept(guard.evaluate(lambda x: exact))
    assert guard.fails(guard.evaluate(lambda x: guessed))
    assert guard.evaluate(lambda x: [exact[0], exact[1] * np.nan]).by_sample is None


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"training": tfopt.Training(loss="mse")}, "is for models with one output"),
        ({"training": tfopt.Training(mixup=0.2)}, "for Training.mixup"),
        ({"distillation": tfopt.Distillation()}, "needs a teacher: pass optimize"),
        ({"distillation": tfopt.MeanTeacher()}, "for a MeanTeacher"),
    ],
)
def test_what_needs_one_output(recipe, words, data):
    with pytest.raises(RecipeError, match=words):
        tfopt.optimize(net(), tfopt.Recipe(stages=(tfopt.FineTune(),), **recipe), data, quiet=True)


@pytest.mark.parametrize("structure", ["list", pytest.param("dict", marks=pytest.mark.minutes)])
def test_a_teacher_teaches_all_outputs(structure, trained, data):
    student = net(structure=structure)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=15), tfopt.PostTraining()), training=SHORT)
    result = tfopt.optimize(student, recipe, data, teacher=trained, quiet=True)
    first, tuned, last = result.report.rows
    assert last.metrics["kind_accuracy"] > 0.8 and last.metrics["age_mae"] < 15 < first.metrics["age_mae"]
    assert any("distilled from" in note and "hinton_kind" in note for note in tuned.notes)


def test_a_teacher_with_other_outputs(data):
    given = keras.Input((4,), name="facts")
    other = keras.Model(given, keras.layers.Dense(5, name="kind")(given), name="other")
    with pytest.raises(tfopt.ModelError, match="do not match"):
        tfopt.optimize(net(), [tfopt.FineTune()], data, teacher=other, quiet=True)


def test_a_teacher_that_takes_other_pixels_is_refused(trained, data):
    teacher = tfopt.Teacher(trained, preprocessing="symmetric")
    with pytest.raises(tfopt.ModelError, match="with several inputs or outputs both must take the same"):
        tfopt.optimize(net(), [tfopt.FineTune()], data, teacher=teacher, quiet=True)
    named = tfopt.Teacher(trained, class_names=("no", "yes"))
    with pytest.raises(tfopt.ModelError, match=r"has class names \(no, yes\), which cannot be matched"):
        tfopt.optimize(net(), [tfopt.FineTune()], data, teacher=named, quiet=True)
    with pytest.raises(tfopt.ModelError, match="must be a Keras 3 or tf_keras model"):
        tfopt.optimize(net(), [tfopt.FineTune()], data, teacher=[trained, trained], quiet=True)


def test_the_command_line_takes_a_teacher_of_several_outputs(trained, tmp_path):
    net().save(tmp_path / "student.keras")
    trained.save(tmp_path / "teacher.keras")
    arrays = {"x/signal": SIGNAL, "x/facts": FACTS, "y/kind": KIND, "y/age": AGE}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "recipe.json").write_text(
        tfopt.Recipe(stages=(tfopt.FineTune(epochs=1, min_steps=0),), max_drop=None).to_json()
    )
    files = ["--model", tmp_path / "student.keras", "--data", tmp_path / "data.npz", "--out", tmp_path / "out"]
    command = ["run", tmp_path / "recipe.json", *files, "--teacher", tmp_path / "teacher.keras"]
    done = CliRunner().invoke(cli.main, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    assert "distilled from" in (tmp_path / "out" / "report.json").read_text()


def test_nested_inputs_are_refused():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([left, right]))
    x, y = {"left": FACTS[:, :3], "right": FACTS[:, :3]}, KIND
    for inputs in ({"eyes": {"left": left, "right": right}}, {"eyes": {"left": left}, "right": right}, [[left], right]):
        model = keras.Model(inputs, outputs, name="net")
        with pytest.raises(tfopt.ModelError, match="The inputs of 'net' are nested; expected one tensor, a list, or"):
            tfopt.optimize(model, [tfopt.FineTune()], (x, y), quiet=True)


def test_labels_must_fit_their_output(trained):
    wrong = {"kind": KIND + 1, "age": AGE}
    with pytest.raises(DataError, match=r"Output 'kind': Expected train labels within 0\.\.1"):
        tfopt.optimize(trained, [tfopt.PostTraining()], (X, wrong), quiet=True)
    with pytest.raises(DataError, match=r"inputs 'facts' of shape \(4,\), the data has \(3,\)"):
        tfopt.optimize(trained, [tfopt.PostTraining()], ({"signal": SIGNAL, "facts": FACTS[:, :3]}, Y), quiet=True)
    with pytest.raises(DataError, match="missing: age"):
        tfopt.optimize(trained, [tfopt.PostTraining()], (X, {"kind": KIND}), quiet=True)
