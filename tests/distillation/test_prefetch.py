"""A teacher that runs ahead of its student gives the same answers, with the weights it has at that moment."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt.base.keras_compat import tf_keras
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.distillation.losses import FitNets, Hinton
from tfopt.distillation.prefetch import Prefetcher, batches_of
from tfopt.teachers import Ensemble, Teacher

APIS = {"keras": keras, "tf_keras": tf_keras()}
LIVE = Distillation(losses=(Hinton(), FitNets(layers=(("conv", "conv"),))), cache="never")


@pytest.fixture(params=APIS)
def api(request):
    return APIS[request.param]


def network(package, width=4, *, seed=0, logits=False):
    package.utils.set_random_seed(seed)
    layers = package.layers
    inputs = package.Input((6, 6, 2))
    x = layers.Conv2D(width, 3, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return package.Model(inputs, layers.Dense(3, activation=None if logits else "softmax", name="head")(x))


def teacher_of(package=keras, seed=5):
    model = network(package, 7, seed=seed, logits=True)
    rng = np.random.default_rng(seed)
    shapes = [weight.shape for weight in model.get_layer("norm").get_weights()]
    model.get_layer("norm").set_weights([rng.uniform(0.5, 2, shape) for shape in shapes])
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(48, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 48)


def compiled(model, package, rate=0.1, **kwargs):
    model.compile(package.optimizers.SGD(rate), package.losses.SparseCategoricalCrossentropy(), **kwargs)
    return model


def in_the_step(monkeypatch):
    monkeypatch.setattr(Prefetcher, "of", classmethod(lambda *_: None))


def taught(api, data, teacher, *, as_dataset=False, distillation=LIVE, **fit):
    """The weights of a student after two epochs, its logs, and whether the teacher ran ahead."""
    x, y = data
    student = network(api)
    distilled = compiled(distill(student, teacher, distillation), api)
    if as_dataset:
        given = {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(20)}
    else:
        given = {"x": x, "y": y, "batch_size": 20, "shuffle": False}
    logs = distilled.fit(**given, epochs=2, verbose=0, **fit).history
    return student.get_weights(), logs, distilled.targets._prefetcher is not None


@pytest.mark.slow
@pytest.mark.parametrize("as_dataset", [False, True], ids=["arrays", "dataset"])
@pytest.mark.parametrize("weights", [None, "sample_weight", "class_weight"])
def test_the_student_learns_what_it_learns_from_the_live_teacher(api, data, as_dataset, weights, monkeypatch):
    given = {"sample_weight": np.linspace(0, 2, 48), "class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}
    if weights == "sample_weight" and as_dataset:
        pytest.skip("a dataset brings its own")
    fit = {weights: given[weights]} if weights else {}
    ahead, logs, was_ahead = taught(api, data, teacher_of(), as_dataset=as_dataset, **fit)
    in_the_step(monkeypatch)
    live, live_logs, was_live = taught(api, data, teacher_of(), as_dataset=as_dataset, **fit)
    assert was_ahead
    assert not was_live
    for one, other in zip(ahead, live, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert logs.keys() == live_logs.keys()
    for name in logs:
        np.testing.assert_allclose(logs[name], live_logs[name], rtol=1e-4, err_msg=name)


def test_an_ensemble_that_uses_labels_runs_ahead(data, monkeypatch):
    def experts():
        names = [("a", "b", "c"), ("c", "b", "a")]
        return Ensemble([Teacher(teacher_of(seed=s), class_names=n) for s, n in zip((5, 6), names, strict=True)])

    ahead, _, was_ahead = taught(keras, data, experts(), distillation=Distillation(cache="never"))
    in_the_step(monkeypatch)
    live, _, _ = taught(keras, data, experts(), distillation=Distillation(cache="never"))
    assert was_ahead
    for one, other in zip(ahead, live, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_weights_assigned_between_two_fits_are_seen(api, data):
    x, y = data
    teacher = teacher_of()
    distilled = compiled(distill(network(api), teacher, LIVE), api, rate=0.0)
    before = distilled.fit(x, y, batch_size=48, verbose=0).history["hinton"][0]
    teacher.set_weights(teacher_of(seed=6).get_weights())
    after = distilled.fit(x, y, batch_size=48, verbose=0).history["hinton"][0]
    expected = compiled(distill(network(api), teacher_of(seed=6), LIVE), api, rate=0.0)
    # The student's BatchNorm statistics do not matter in training mode.
    assert after == pytest.approx(expected.fit(x, y, batch_size=48, verbose=0).history["hinton"][0], rel=1e-4)
    assert after != pytest.approx(before, rel=1e-2)


@pytest.mark.slow
def test_weights_that_change_within_a_fit_are_seen_at_the_next_step(api, data, monkeypatch):
    def logs_of(teacher):
        class Change(api.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                kernel = teacher.get_layer("head").kernel
                kernel.assign(kernel * 1.5)

        return taught(api, data, teacher, callbacks=[Change()])

    weights, logs, was_ahead = logs_of(teacher_of())
    in_the_step(monkeypatch)
    expected, live_logs, _ = logs_of(teacher_of())
    assert was_ahead
    np.testing.assert_allclose(logs["hinton"], live_logs["hinton"], rtol=1e-4)
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_teacher_that_shares_layers_with_its_student_teaches_as_it_learns(data, monkeypatch):
    def trained():
        student = network(keras)
        own = keras.Model(student.input, keras.layers.Rescaling(1.0)(student.output))
        distilled = compiled(distill(student, own, Distillation(cache="never")), keras)
        distilled.fit(*data, batch_size=20, epochs=2, shuffle=False, verbose=0)
        return student.get_weights()

    ahead = trained()
    in_the_step(monkeypatch)
    for one, other in zip(ahead, trained(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_teacher_is_neither_changed_nor_saved(api, data, tmp_path):
    teacher, student = teacher_of(), network(api)
    before = teacher.get_weights()
    distilled = compiled(distill(student, teacher, LIVE), api)
    distilled.fit(*data, verbose=0)
    for old, now in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert not {id(weight) for weight in teacher.weights} & {id(weight) for weight in distilled.weights}
    distilled.save(tmp_path / "student.keras")
    assert len(api.models.load_model(tmp_path / "student.keras").weights) == len(student.weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fit",
    [{"validation_split": 0.25}, {"steps_per_epoch": 2}, {"validation_data": True}],
    ids=lambda fit: next(iter(fit)),
)
def test_whatever_fit_is_told(api, data, fit):
    x, y = data
    if "validation_data" in fit:
        fit = {"validation_data": (x, y)}
    distilled = compiled(distill(network(api), teacher_of(), LIVE), api)
    logs = distilled.fit(x, y, batch_size=12, epochs=2, verbose=0, **fit).history
    assert len(logs["loss"]) == 2
    assert ("val_loss" in logs) == ("steps_per_epoch" not in fit)


def test_code_runs_within_the_step(data):
    teacher = teacher_of()
    _, _, was_ahead = taught(keras, data, lambda x: np.asarray(teacher(x)), distillation=Distillation(cache="never"))
    assert not was_ahead


def test_the_graph_is_kept_while_the_teacher_stays_the_same(data):
    x, y = data
    distilled = compiled(distill(network(keras), teacher_of(), LIVE), keras)
    distilled.fit(x, y, verbose=0)
    first = distilled.targets._prefetcher
    distilled.fit(x, y, verbose=0)
    assert distilled.targets._prefetcher is first


def test_a_dataset_in_double_precision(data):
    x, y = data
    batches = tf.data.Dataset.from_tensor_slices((x.astype("float64"), y.astype("float64"))).batch(20)
    distilled = compiled(distill(network(keras), teacher_of(), LIVE), keras)
    assert np.isfinite(distilled.fit(batches, verbose=0).history["hinton"]).all()
    assert distilled.targets._prefetcher is not None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "bool"])
def test_every_change_of_a_weight_is_seen(dtype):
    from tfopt.distillation.prefetch import _sums

    values = np.array([[3, 1], [0, 7]], dtype)
    variable = tf.Variable(values)
    before = _sums([variable]).numpy()
    np.testing.assert_array_equal(_sums([tf.Variable(values)]), before)
    values[1, 0] = np.nextafter(values[1, 0], values[0, 0]) if dtype.startswith("float") else 1
    variable.assign(values)
    assert (_sums([variable]).numpy() != before).any()


def test_arrays_become_the_batches_that_keras_makes():
    x, y, weight = np.arange(10.0), np.arange(10) % 3, np.linspace(0, 1, 10)
    plain = {"validation_split": 0.0, "steps_per_epoch": None, "batch_size": 4, "shuffle": True}
    batches = batches_of({**plain, "x": x, "y": y, "sample_weight": weight})
    epochs = [[np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True)] for _ in range(2)]
    assert len(batches) == 3
    assert [spec.dtype.name for spec in batches.element_spec] == ["float32", "int64", "float32"]
    for one_x, one_y, one_weight in epochs:
        rows = one_x.astype(int)
        np.testing.assert_array_equal(np.sort(rows), np.arange(10))
        np.testing.assert_array_equal(one_y, y[rows])
        np.testing.assert_allclose(one_weight, weight[rows])
    assert (epochs[0][0] != epochs[1][0]).any()
    in_order = batches_of({**plain, "shuffle": False, "x": x, "y": None, "sample_weight": None})
    assert [len(parts) for (*_, parts) in in_order.as_numpy_iterator()] == [4, 4, 2]
