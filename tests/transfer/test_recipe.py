"""Recipes that begin with a transfer: from a model for one task to a verified file for another."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.transfer import feature_transfer

TRANSFER = tfopt.transfer.FeatureTransfer(epochs=20, head=tfopt.transfer.Head(hidden=(8,)))


def pictures(count, seed):
    """Images (8, 8, 3) of two kinds: bright in the left or in the right half."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.normal(size=(count, 8, 8, 3)).astype("float32")
    x[y == 0, :, :4] += 1.5
    x[y == 1, :, 4:] += 1.5
    return x, y


@pytest.fixture(scope="module")
def source():
    """Random filters, and a head for six other classes."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(12, 3, activation="relu", name="conv"),
        keras.layers.MaxPooling2D(3, name="pool"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(6, activation="softmax", name="classes"),
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers], name="source")


@pytest.fixture(scope="module")
def data():
    return tfopt.load_data(pictures(300, 1))


def recipe_of(*stages, transfer=TRANSFER, **training):
    return tfopt.Recipe(
        stages=stages, transfer=transfer, training=tfopt.Training(learning_rate=1e-3, **training), name="transferred"
    )


@pytest.mark.slow
def test_a_file_for_the_new_task(source, data, tmp_path):
    before = source.get_weights()
    result = tfopt.optimize(
        source,
        recipe_of(tfopt.Prune(final_sparsity=0.5, epochs=3, min_steps=0), tfopt.Quantize(epochs=1, min_steps=0)),
        data,
        quiet=True,
    )
    first, *_, last = result.report.rows
    assert first.step == "FeatureTransfer"
    assert any("left out: classes" in note for note in first.notes)
    assert last.metrics["accuracy"] > 0.9
    assert result.model.output_shape == (None, 2)
    assert isinstance(result.model, keras.Model)
    for old, now in zip(before, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    result.save(tmp_path / "out")
    assert tfopt.Recipe.load(tmp_path / "out" / "recipe.json") == result.recipe


def test_round_trip():
    transfer = tfopt.transfer.FeatureTransfer(
        input_shape=(96, 96, 3), head=tfopt.transfer.Head(hidden=(32, 16), dropout=0.3), views=2
    )
    recipe = recipe_of(tfopt.FineTune(), transfer=transfer)
    assert tfopt.Recipe.from_json(recipe.to_json()) == recipe
    values = json.loads(recipe.to_json())
    values["transfer"]["kind"] = "Magic"
    with pytest.raises(RecipeError, match="'Magic'"):
        tfopt.Recipe.from_dict(values)


@pytest.mark.slow
@pytest.mark.parametrize("upright", [True, False])
def test_augmentation_of_views_is_tried_first(source, data, upright):
    x, y = pictures(300, 1)
    data = data if not upright else tfopt.load_data((x.swapaxes(1, 2).copy(), y))  # mirroring changes nothing there
    recipe = recipe_of(transfer=tfopt.transfer.FeatureTransfer(epochs=10, views=2), horizontal_flip=True)
    notes = tfopt.optimize(source, recipe, data, quiet=True).report.rows[0].notes
    used = f"head trained on {2 * len(data.train) if upright else len(data.train):,} features"
    assert [note for note in notes if note.startswith(used)]
    assert any(note.startswith("augmentation horizontal_flip left out") for note in notes) == (not upright)


@pytest.mark.slow
def test_few_images_are_seen_in_several_views(source, tmp_path):
    """300 images that a mirror does not change: 8 views of each for the head, kept for the next run with the others."""
    x, y = pictures(300, 1)
    data = tfopt.load_data((x.swapaxes(1, 2).copy(), y))
    recipe = recipe_of(transfer=tfopt.transfer.FeatureTransfer(), horizontal_flip=True)
    written = []
    for _ in range(2):
        result = tfopt.optimize(source, recipe, data, feature_cache=tmp_path / "kept", quiet=True)
        assert any(f"head fitted on {8 * len(data.train):,} features" in n for n in result.report.rows[0].notes)
        written.append([(file.name, file.stat().st_mtime_ns) for file in sorted((tmp_path / "kept").rglob("*.npy"))])
    assert len(written[0]) == 2 and written[0] == written[1]


def test_what_the_stages_cannot_do_is_told_before_features_are_computed(source, data, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("features were computed")

    monkeypatch.setattr(feature_transfer, "features_of", refuse)
    with pytest.raises(RecipeError, match="nowhere"):
        tfopt.optimize(source, recipe_of(tfopt.Prune(layers=(("nowhere", 0.5),))), data, quiet=True)
    with pytest.raises(ModelError, match="nearest: conv"):
        tfopt.optimize(source, recipe_of(transfer=tfopt.transfer.FeatureTransfer(layer="konv")), data, quiet=True)


@pytest.mark.slow
def test_features_are_kept_for_the_next_run(source, data, tmp_path):
    recipe = recipe_of(transfer=dataclasses.replace(TRANSFER, epochs=2))
    runs, written = [], []
    for _ in range(2):
        runs.append(tfopt.optimize(source, recipe, data, feature_cache=tmp_path / "kept", quiet=True))
        (file,) = (tmp_path / "kept").glob("*.npy")
        written.append((file.name, file.stat().st_mtime_ns))
    assert written[0] == written[1]  # stale features would be computed and written again
    outputs = [run.model.predict(data.test.x(), verbose=0) for run in runs]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize(("least", "code"), [(0.5, 0), (1.0, 1)])
def test_the_gate(source, tmp_path, least, code):
    x, y = pictures(300, 1)
    x[:20] = -x[:20]  # no model gets all of them right
    np.savez(tmp_path / "data.npz", x=x, y=y)
    source.save(tmp_path / "source.keras")
    recipe = recipe_of(tfopt.FineTune())
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    arguments = [
        "run",
        tmp_path / "recipe.json",
        "--source",
        tmp_path / "source.keras",
        "--data",
        tmp_path / "data.npz",
    ]
    arguments += ["--out", tmp_path / "out", "--quiet", "--min-accuracy", least]
    done = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    assert ("wrote" in done.stdout) == (code == 0)
    if code:
        assert f"below --min-accuracy {least:g}. The results are in {tmp_path / 'out'}" in done.stderr
    assert (tmp_path / "out" / "model.tflite").exists()


# Other kinds of transfer


def test_parameters(source, data):
    recipe = recipe_of(tfopt.FineTune(epochs=0), transfer=tfopt.transfer.ParameterTransfer(first="conv"))
    result = tfopt.optimize(source, recipe, data, quiet=True)
    first = result.report.rows[0]
    assert first.step == "ParameterTransfer"
    assert "4 weights: 2 matched, 0 adapted, 2 skipped" in first.notes
    for given, found in zip(
        source.get_layer("conv").get_weights(), result.model.get_layer("conv").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(given, found)
    assert result.model.output_shape == (None, 2)


@pytest.mark.slow
def test_structure(source, data):
    transfer = tfopt.transfer.StructureTransfer(width=0.5, divisor=2)
    result = tfopt.optimize(source, recipe_of(tfopt.FineTune(epochs=15), transfer=transfer), data, quiet=True)
    assert result.model.get_layer("conv").kernel.shape == (3, 3, 3, 6)
    assert result.report.rows[-1].metrics["accuracy"] > 0.8


@pytest.fixture(scope="module")
def deep_source():
    """Two convolutions that distinguish left from right, trained on separate data."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Conv2D(6, 3, activation="relu", name="low"),
        keras.layers.BatchNormalization(momentum=0.8, name="norm"),
        keras.layers.MaxPooling2D(2, name="pool"),
        keras.layers.Conv2D(6, 2, activation="relu", name="high"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(2, activation="softmax", name="classes"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="deep")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*pictures(300, 5), epochs=10, verbose=0)
    return model


@pytest.mark.slow
def test_depth_study(deep_source, data, tmp_path):
    """Each network has the layers that its name says, and the best one is used."""
    transfer = tfopt.transfer.DepthStudy(places=2, epochs=2, learning_rate=0.01)
    recipe = recipe_of(transfer=transfer)
    result = tfopt.optimize(deep_source, recipe, data, feature_cache=tmp_path / "kept", quiet=True)
    rows = json.loads(result.files["depth_study.json"])
    kinds = [kind for _ in range(2) for kind in ("AnB", "AnB+", "BnB", "BnB+")]
    assert [row["kind"] for row in rows] == ["B", *kinds]
    assert [row["cut"] for row in rows] == [None, *["norm"] * 4, *["high"] * 4]
    kept = {path.name.rpartition("-")[2]: np.load(path) for path in (tmp_path / "kept").iterdir()}
    lowest = deep_source.get_layer("low").get_weights()[0]
    np.testing.assert_array_equal(kept["1.npz"]["weight_0"], lowest)  # AnB: frozen
    assert (kept["2.npz"]["weight_0"] != lowest).any()  # AnB+: trained on
    np.testing.assert_array_equal(kept["3.npz"]["weight_0"], kept["0.npz"]["weight_0"])  # BnB: those of B
    assert (kept["3.npz"]["weight_6"] != kept["0.npz"]["weight_6"]).any()  # but not above the cut
    best = max(rows, key=lambda row: row["validation"])
    assert result.report.rows[0].metrics["accuracy"] == pytest.approx(best["test"], abs=0.02)
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "depth_study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_interrupted_depth_study_resumes(deep_source, data, tmp_path, monkeypatch):
    from tfopt.transfer import depth_study

    transfer = tfopt.transfer.DepthStudy(places=1, epochs=1)
    trained = []
    fitted = depth_study._Study._fitted

    def counted(self, model, number, *others):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(number)
        return fitted(self, model, number, *others)

    monkeypatch.setattr(depth_study._Study, "_fitted", counted)
    with pytest.raises(KeyboardInterrupt):
        transfer.transferred(deep_source, data, cache=tmp_path)
    monkeypatch.setattr(depth_study._Study, "_fitted", lambda *args: trained.append(args[2]) or fitted(*args))
    resumed = transfer.transferred(deep_source, data, cache=tmp_path)
    assert trained == [0, 1, 2, 3, 4]
    whole = transfer.transferred(deep_source, data)
    assert resumed.files["depth_study.json"] == whole.files["depth_study.json"]


def test_bad_studies(deep_source, data):
    with pytest.raises(ModelError, match="nearest: high"):
        tfopt.transfer.DepthStudy(cuts=("hihg",)).untrained(deep_source, data)
    values = tfopt.load_data((data.train.x(), data.train.y() + 0.5))
    with pytest.raises(DataError, match="expected a classification"):
        tfopt.transfer.DepthStudy().untrained(deep_source, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "transfer",
    [tfopt.transfer.ParameterTransfer(), tfopt.transfer.StructureTransfer()],
    ids=["parameters", "structure"],
)
def test_a_model_that_knows_nothing_yet_does_not_judge_augmentation(source, data, transfer):
    recipe = recipe_of(transfer=transfer, horizontal_flip=True)
    notes = tfopt.optimize(source, recipe, data, quiet=True).report.rows[0].notes
    assert [note for note in notes if note.startswith("augmentation horizontal_flip left out: a head on the features")]


def test_no_augmentation_without_a_judge():
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(6)]
    fixed = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    x, y = pictures(200, 2)
    larger = tfopt.load_data((np.concatenate([x, x], axis=1), y))
    recipe = recipe_of(transfer=tfopt.transfer.StructureTransfer(), horizontal_flip=True)
    notes = tfopt.optimize(fixed, recipe, larger, quiet=True).report.rows[0].notes
    assert "no augmentation (horizontal_flip): there is no model to judge which images stay recognizable" in notes


@pytest.mark.slow
def test_a_saved_model_as_source(source, data, tmp_path):
    """Its layers are rebuilt from its graph, so that they can be pruned; the report says so."""
    source.export(tmp_path / "saved", verbose=False)
    recipe = recipe_of(tfopt.Prune(final_sparsity=0.5, epochs=3, min_steps=0))
    result = tfopt.optimize(str(tmp_path / "saved"), recipe, data, quiet=True)
    assert f"the module {tmp_path / 'saved'} as native layers" in result.report.rows[0].notes
    convolution = next(layer for layer in result.model.layers if type(layer).__name__ == "Conv2D")
    kernel = np.asarray(convolution.kernel)
    assert np.isclose((kernel == 0).mean(), 0.5, atol=0.01)
    assert result.report.rows[-1].metrics["accuracy"] > 0.8


def test_images_that_the_source_does_not_take_are_fed_as_they_were(source):
    from tfopt.transfer.preprocessing import choose_preprocessing

    images = np.zeros((60, 6, 6, 1), np.uint8)
    for given in (tfopt.load_data((images, np.arange(60) % 2)), tfopt.load_data("digits")):
        found, said = choose_preprocessing(source, given, None)
        assert found is given
        assert said == []


def test_images_are_fed_as_the_features_say_most():
    from tfopt.transfer.preprocessing import choose_preprocessing

    layers = keras.layers
    # A feature is the mean pixel minus 0.4, clipped at 0 and at 0.3: useful for pixels of 0..1, else always an end.
    source = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Flatten(),
            layers.Dense(3, name="mean"),
            layers.ReLU(max_value=0.3),
            layers.Dense(2, activation="softmax"),
        ]
    )
    source.get_layer("mean").set_weights([np.full((48, 3), 1 / 48), np.full(3, -0.4)])
    y = np.arange(200) % 2
    noise = np.random.default_rng(0).integers(-9, 10, (200, 4, 4, 3))
    images = tfopt.load_data(((115 + 20 * y[:, None, None, None] + noise).astype("uint8"), y))
    chosen, said = choose_preprocessing(source, images, None)
    assert chosen.preprocessing.scale == pytest.approx(1 / 255) and chosen.preprocessing.offset == 0
    assert "preprocessing 'unit'" in said[0]
