"""The Python of the documentation runs as is: the blocks of a page in order, in one namespace.

A function named after the page makes what the page assumes (a model, data, files). It then checks the results that the
page describes.
"""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfopt
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT

ROOT = Path(__file__).parent.parent
LAYERS = keras.layers


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


FILES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))


def name_of(page):
    """The name of a page in `of_NAME`: its path in docs/, such as guides_faster."""
    inside = page.relative_to(ROOT / "docs") if page.is_relative_to(ROOT / "docs") else Path(page.name)
    return "_".join(inside.with_suffix("").parts).lower()


PAGES = {name_of(page): page for page in FILES if blocks(page)}


def network(*names, classes=2, kind="softmax", width=8):
    """A small seeded model of 8x8 color images with a convolution of `width` channels for each of `names`."""
    keras.utils.set_random_seed(1)
    middle = [LAYERS.Conv2D(width, 3, padding="same", activation="relu", name=name) for name in names]
    top = [LAYERS.GlobalAveragePooling2D(), LAYERS.Dense(classes, activation=kind, name="head")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *middle, *top])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch, write_photos):
    """The folder in which a page runs, with photos/, dark ones and light ones."""
    write_photos(tmp_path / "photos", 50)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfopt.stages.Stage.epochs_on", lambda stage, steps: stage.epochs)  # the photos are easy
    monkeypatch.syspath_prepend(tmp_path)  # modules that a page assumes
    return tmp_path


def photos():
    """The photos from -1 to 1, and their parts under the names that the pages use."""
    data = tfopt.load_data("photos", preprocessing="symmetric")
    parts = {"x": data.train.x(), "y": data.train.y(), "x_val": data.validation.x(), "y_val": data.validation.y()}
    return {"data": data, "inputs": parts["x"], **parts}


def of_android():
    """The scores of the bytes are those of the values, and the model's best class comes out."""
    names = {"model": network("stem")}
    yield names
    data, lite = names["data"], names["lite"]
    assert (lite.labels, lite.inputs[0].dtype) == (("dark", "light"), "uint8")
    assert lite.preprocessing.describe() == "inputs, fed as float32 value/127.5 - 1"
    np.testing.assert_allclose(names["scores"], lite.predict(data.test.x()[:1])[0], atol=0.02)  # off by half a step
    assert names["best"] == lite.labels[int(names["model"].predict(data.test.x()[:1], verbose=0).argmax())]


def of_ios():
    names = {"model": network("stem")}
    yield names
    assert (names["port"].dtype, names["port"].scales, names["port"].zero_points) == ("uint8", (1 / 256,), (0,))
    np.testing.assert_allclose(names["scores"], names["same"], atol=1e-6)


def of_microcontroller():
    names = {"model": network("stem")}
    yield names
    assert names["operators"] == ["CONV_2D", "FULLY_CONNECTED", "MEAN", "SOFTMAX"]
    numbers = re.findall(r"\d+", Path("model_data.cc").read_text().partition("{")[2].partition("}")[0])
    assert bytes(map(int, numbers)) == names["lite"].data
    np.testing.assert_allclose(names["scores"], names["lite"].predict(names["data"].test.x()[:1])[0], atol=1e-6)


def of_bridge():
    """Each block registers a twin in place of the previous one, so the last one counts."""
    names = {}
    yield names
    model = keras.Sequential([keras.Input((4,)), names["Scaled"](3.0)])
    flat, x = names["bridge"].to_tf_keras(model), np.ones((1, 4), "float32")
    assert type(flat.layers[-1]).__name__ == "Rescaling"
    names["bridge"].register_twin(names["Scaled"], names["ScaledTwin"])
    flat = names["bridge"].to_tf_keras(model)
    assert type(flat.layers[-1]).__name__ == "ScaledTwin"
    np.testing.assert_array_equal(flat.predict(x, verbose=0), 3 * x)


def of_check():
    names = {"model": network("stem"), "recipe": tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize()))}
    yield names
    assert names["found"].ok and not names["found"].problems


def of_contributing():
    names = {"model": network("stem")}
    before = names["model"].get_weights()
    yield names
    for weight, clipped in zip(before, names["clipped"].get_weights(), strict=True):
        np.testing.assert_array_equal(clipped, np.clip(weight, -0.1, 0.1))
    assert max(np.abs(weight).max() for weight in before) > 0.1
    loss_inputs = names["LossInputs"](
        student=np.array([[1.0, 2.0], [0.0, 4.0]]), teacher=np.array([[1.0, 0.0], [2.0, 4.0]])
    )
    assert float(names["term"](loss_inputs, ())) == (4 + 4) / 2 / 2


def test_pages_for_devices_run_files_in_the_same_words():
    ends = {blocks(PAGES[page])[-1].partition("\nlabels = ")[2] for page in ("text", "sound", "tables")}
    assert len(ends) == 1 and "interpreter.invoke()" in ends.pop()


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_every_place_that_a_page_names_exists(page):
    named = re.findall(r"`((?:tfopt|tests|docs|benchmarks|\.ci)/[\w/.]*)`", page.read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [place for place in named if not (ROOT / place).exists()] == []


def detector(width):
    layers, inputs = keras.layers, {name: keras.Input((3,), name=name) for name in ("left", "right")}
    x = layers.Dense(width)(layers.Concatenate()(list(inputs.values())))
    ends = {"kind": (3, "softmax"), "tags": (4, "sigmoid"), "place": (2, None)}
    return keras.Model(inputs, {name: layers.Dense(*end, name=name)(x) for name, end in ends.items()})


def of_distill():
    for name in ("teacher", "cats", "dogs"):
        network("teacher_layer").save(f"{name}.keras")
    names = {**photos(), "student": network("student_layer"), "teacher": network("teacher_layer")}
    names |= {"detector": detector(4), "large_detector": detector(8)}
    names |= {"left": np.ones((8, 3)), "right": np.zeros((8, 3))}
    names |= {"kinds": np.arange(8) % 3, "tags": np.ones((8, 4)), "places": np.zeros((8, 2))}
    yield names
    logged = names["distilled"].history.history
    assert {"hard_loss_kind", "hinton_kind", "multilabel_kd_tags", "regression_kd_place"} < set(logged)
    assert names["result"].report.rows[-1].nonzero_parameters < names["result"].report.rows[0].parameters
    assert names["teacher"].class_names == ("fox", "lion", "tiger", "wolf")
    notes = " ".join(note for row in names["masked"].report.rows for note in row.notes)
    assert "hinton" in notes and "channel_wise" in notes


def of_data():
    """Anomaly scores are the mean squares of what the file's reconstruction misses."""
    names = {}
    yield names
    x = names["data"].test.x()
    missed = np.mean((names["result"].lite.predict(x) - x) ** 2, axis=1)
    np.testing.assert_allclose(names["scores"], missed, rtol=1e-5)
    assert {name: array.shape for name, array in names["by_name"].items()} == {"kind": (5, 2), "age": (5, 1)}


def of_export():
    names = {"model": network("stem"), **photos()}
    yield names
    interpreter = Interpreter("model.tflite")
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    assert names["lite"].data == Path("model.tflite").read_bytes()
    assert names["recipe"].export.activation_ranges == "mse" and not names["recipe"].export.compact


def of_low_bit():
    names = {**photos(), "model": network("stem", "second")}
    yield names
    assert {trial.layer for trial in names["found"].trials} == {"stem", "second", "head"}
    assert Path("sensitivity.png").read_bytes()[1:4] == b"PNG"


def of_posttraining():
    names = {**photos(), "model": network("conv2d", "conv2d_1")}
    yield names
    kernel = names["small"].get_layer("conv2d_1").get_weights()[0]
    integers = names["grids"]["conv2d_1", "kernel"].integers(kernel)
    assert integers.dtype == np.int8 and np.abs(integers).max() <= 7
    assert len(np.unique(integers)) > 2


def of_prune():
    yield {}


def of_channels():
    """Half of the multiplications stay, in a plain Keras model whose file is right."""
    names = {}
    yield names
    first, second = (names["small"].get_layer(name).filters for name in ("first", "second"))
    assert first % 8 == second % 8 == 0
    macs = [14 * 14 * 27 * a + 12 * 12 * 9 * a * b + 3 * b for a, b in ((32, 64), (first, second))]
    assert macs[1] <= macs[0] / 2 and names["lite"].macs() == macs[1]
    x = names["x"]
    assert (names["lite"].predict(x).argmax(1) == names["small"].predict(x, verbose=0).argmax(1)).mean() > 0.9
    assert names["refit"].count_params() < names["model"].count_params()
    assert names["shallow"].count_params() == names["deep"].count_params() - 2 * (9 * 16 * 16 + 16)
    assert names["thin"].count_params() == 16 * (64 + 256) + 256 + 256 * 3 + 3


def of_own_fit():
    """The promise holds in the file and in the best epoch that the page saves."""
    names = {}
    yield names
    kernel = names["sparse"].layers[0].kernel.numpy()
    assert np.mean(kernel == 0) == 0.5 and Path("log.csv").is_file()
    again = names["stage"].strip(tfopt.load_model("best.keras"))
    assert np.mean(again.layers[1].get_weights()[0] == 0) == 0.5
    assert np.mean(names["lite"].weights()[0].values == 0) >= 0.5


def of_tracking():
    """A log for each stage, from which the stages had different callbacks."""
    yield {}
    assert len(Path("FineTune.csv").read_text().splitlines()) == 1 + 5
    assert len(Path("Prune.csv").read_text().splitlines()) == 1 + 3


def of_quantize():
    dense = tfopt.Prune(final_sparsity=0.5, schedule="one-shot")
    names = photos()
    train = names["data"].batches("train", 8, shuffle=True)
    sparse = dense.strip(dense.apply(network("stem"), steps=1))
    names |= {"sparse": sparse, "train": train}
    yield names
    zeros = [np.mean(model.get_layer("stem").get_weights()[0] == 0) for model in (sparse, names["small"])]
    assert zeros[0] == 0.5 and zeros[1] >= 0.5
    assert {w.tensor.dtype for w in LiteModel("model.tflite").weights()} == {"int8"}


def of_transfer():
    network("conv_pw_5", "conv_pw_10").save("mobilenet.keras")
    source, target = network("conv_pw_5", "conv_pw_10"), network("conv_pw_5", "conv_pw_10", classes=3)
    names = {**photos(), "source": source, "target": target}
    yield names
    assert names["extractor"].output_shape == (None, 8)
    assert names["made"].model.output_shape == (None, 2)
    assert names["model"].output_shape == (None, 3)


def on_device(page, front_end, raw, *, settings=None):
    """Check that the last block of a page answers as `LiteModel.predict` does, also for a file of `settings`."""
    folder, code = next(Path("saved_models").iterdir()), blocks(PAGES[page])[-1]
    if settings:
        model = tfopt.load_model(folder / "model.keras")
        x = np.random.default_rng(0).normal(size=(100, *model.input_shape[1:])).astype("float32")
        tfopt.export_tflite(model, folder / "model.tflite", settings, representative_data=x)
    exec(compile(code, f"{page}, the last block", "exec"), names := {"__name__": "page"})
    lite = LiteModel(folder / "model.tflite")
    output = lite.outputs[0]
    assert (names["given"]["dtype"], names["made"]["dtype"]) == (np.dtype(lite.inputs[0].dtype), np.dtype(output.dtype))
    wanted = lite.predict(front_end.apply(front_end.stored(raw)))[0]
    np.testing.assert_allclose(names["scores"], wanted, atol=1.01 * output.scales[0] if output.scales else 1e-5)
    return names


def of_sound():
    """The lines for the device compute what tfopt does."""
    from scipy.io import wavfile

    rng = np.random.default_rng(0)
    for name, frequency in (("low", 400), ("high", 1600)):
        (Path("recordings") / name).mkdir(parents=True)
        for number in range(30):
            wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(3600) / 8000) + rng.normal(0, 0.05, 3600)
            wavfile.write(
                Path("recordings") / name / f"{number}.wav", 8000, (32767 * wave.clip(-1, 1)).astype(np.int16)
            )
    tone = np.sin(2 * np.pi * 1600 * np.arange(2999) / 8000)
    wavfile.write("new.wav", 8000, (20000 * tone).astype(np.int16))
    names = {}
    yield names
    data, new = names["data"], np.array([Path("new.wav")], object)
    np.testing.assert_allclose(names["features"](data.test.inputs[0]), data.test.x()[0], atol=2e-3)
    assert names["result"].lite.preprocessing == data.preprocessing
    samples = on_device("sound", data.preprocessing, new)["samples"]
    np.testing.assert_array_equal(samples, data.preprocessing.stored(new)[0])
    two = np.stack([np.concatenate([np.zeros(4001), tone]), np.zeros(7000)], axis=1)  # in the middle and left
    wavfile.write("new.wav", 8000, (20000 * two).astype(np.int16))
    samples = on_device("sound", data.preprocessing, new)["samples"]
    np.testing.assert_array_equal(samples, data.preprocessing.stored(new)[0])


def of_tables():
    """The lines for the device compute what tfopt does."""
    rng = np.random.default_rng(0)
    ages = [None if number % 9 == 0 else int(rng.integers(20, 60)) for number in range(300)]
    cities, smokers = rng.choice(["Rome", "Bern", "Oslo"], 300).tolist(), (rng.random(300) < 0.5).tolist()
    rows = [
        {"age": age, "city": city, "smokes": smokes} for age, city, smokes in zip(ages, cities, smokers, strict=True)
    ]
    lines = [
        f"{row['age'] or ''},{row['city']},{row['smokes']},{'old' if (row['age'] or 0) > 40 else 'young'}"
        for row in rows
    ]
    Path("people.csv").write_text("age,city,smokes,target\n" + "\n".join(lines))
    Path("new.csv").write_text("age,city,smokes\n, Oslo,True\n")
    names = {}
    yield names
    front_end = names["data"].preprocessing
    kinds = [("age", float), ("city", object), ("smokes", bool)]
    raw = np.array([(np.nan if row["age"] is None else row["age"], row["city"], row["smokes"]) for row in rows], kinds)
    np.testing.assert_allclose([names["features"](row) for row in rows], front_end.stored(raw), atol=1e-6)
    assert len(front_end.features) == 6 and names["result"].lite.preprocessing == front_end
    new = np.array([(np.nan, "Oslo", True)], kinds)
    on_device("tables", front_end, new)
    Path("new.csv").write_text("smokes,city,age\nfalse,NA,51.0\n")
    new = np.array([(51, None, False)], kinds)
    on_device("tables", front_end, new)
    on_device("tables", front_end, new, settings=FLOAT)
    for written, age in (("1,051", 1051), ("-$ 51.5", -51.5), ("51 %", 51), ("?", np.nan), ("n.a.", np.nan)):
        Path("new.csv").write_text(f'smokes,city,age\nfalse,NA,"{written}"\n')
        on_device("tables", front_end, np.array([(age, None, False)], kinds))


def of_text():
    """The lines for the device compute what tfopt does."""
    words = np.random.default_rng(0).choice(["Good", "bad,", "film", "plot!", "it's", "\u00fcber"], (200, 6))
    rows = [f'"{" ".join(row)}",{1 + number % 2}' for number, row in enumerate(words)]
    Path("reviews.csv").write_text("review,stars\n" + "\n".join(rows), encoding="utf-8")
    names = {}
    yield names
    text = names["data"].preprocessing
    samples = [
        "A surprisingly good film!",
        "plot PLOT it's bad " * 20,
        "\u00dcber ~ \u00fcber",
        *(" ".join(row) for row in words),
    ]
    wanted = text.stored(np.array([*samples, None], object)[:-1])
    assert [names["token_ids"](sample) for sample in samples] == wanted.tolist()
    assert names["x"].tolist() == wanted[0].tolist() and names["data"].class_names == ("1", "2")
    on_device("text", text, np.array([samples[0], None], object)[:-1])


def of_training():
    names = {}
    yield names
    assert names["recipe"].max_drop == 0.03 and names["recipe"].stages[0].retry == "lower"
    assert names["training"].loss["config"]["factor"] == 4.0


def of_api_index():
    names = {}
    yield names
    assert names["model"].output_shape == (None, names["data"].num_classes)


def of_index():
    network("stem").save("model.keras")
    names = {}
    yield names
    assert names["result"].report.rows[-1].step == "exported int8"


def of_start():
    names = {}
    yield names
    assert names["scores"].shape == (5, 3)
    assert np.mean(names["result"].model.layers[0].kernel.numpy() == 0) >= 0.5


def of_guides_photos_to_android():
    network("conv", classes=7).save("mobilenet.keras")
    names = {}
    yield names
    assert names["lite"].labels == ("dark", "light")
    assert names["lite"].inputs[0].dtype == "uint8"


def of_guides_faster():
    names = {**photos(), "model": network("first", "second", width=24)}
    original = LiteModel(tfopt.export_tflite(names["model"], representative_data=names["data"]).data)
    yield names
    assert names["row"].macs <= original.macs() / 2


def of_guides_under_50_kb():
    """Both limits hold in the file."""
    names = {**photos(), "model": network("first", "second", width=24), "limit": 8_000}
    yield names
    assert names["result"].lite.size <= 8_000
    rows = {row.step: row.bytes for row in names["smaller"].report.rows}
    assert rows["PruneChannels"] <= 0.8 * rows["original"]


def of_guides_distill():
    names = {**photos(), "teacher": network("first", "second")}
    yield names
    assert names["student"].get_layer("first").filters == 8
    assert Path("student.keras").exists()


def of_guides_segmentation():
    (folder := Path("cells")).mkdir()
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(12):
        mask = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16))).astype("uint8") * 255
        keras.utils.save_img(folder / "masks" / f"{number}.png", mask[..., None], scale=False)
        image = mask // 2 + rng.integers(0, 60, mask.shape, "uint8")
        keras.utils.save_img(folder / "images" / f"{number}.png", image[..., None], scale=False)
    layers = [
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(2, 1, activation="softmax"),
    ]
    names = {"unet": keras.Sequential([keras.Input((64, 64, 1)), *layers])}
    yield names
    assert names["classes"].shape == (len(names["data"].test), 64, 64)
    assert (Path("saved_models/cells") / "report.html").is_file()


def marked(page):
    """Guides train for several stages, each of which has quick tests."""
    return pytest.param(page, marks=pytest.mark.slow) if page.startswith("guides_") else page


@pytest.mark.parametrize("page", map(marked, PAGES))
def test_the_python_of_a_page_runs(page, folder):
    setup = globals()[f"of_{page}"]()
    names = next(setup)
    names.update(tfopt=tfopt, keras=keras, __name__="page")
    for number, block in enumerate(blocks(PAGES[page])):
        exec(compile(block, f"{PAGES[page].name}, Python block {number + 1}", "exec"), names)
    assert next(setup, None) is None
