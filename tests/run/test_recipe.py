"""A recipe is data: it survives the file, and refuses unknown or contradictory settings."""

import dataclasses
import json

import keras
import pytest

import tfopt
from tfopt.data import Preprocessing
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.losses import FitNets, Hinton
from tfopt.errors import RecipeError
from tfopt.run.optimize import optimize
from tfopt.run.recipe import Recipe, as_recipe
from tfopt.stages import STAGES, Binarize, Cluster, FineTune, PostTraining, Prune, Quantize
from tfopt.tflite.settings import Export
from tfopt.training.settings import Training

STAGES_WITH_SETTINGS = (
    FineTune(epochs=2, learning_rate=0.01, layers=(("conv2d*", False), ("Dense", True))),
    Prune(
        epochs=3,
        final_sparsity=0.75,
        initial_sparsity=0.25,
        power=2.0,
        begin_step=1,
        end_step=9,
        frequency=4,
        block_size=(2, 4),
        block_pooling_type="MAX",
        importance="random",
        seed=3,
        layers=(("dense_1", 0.5), ("stem", False)),
    ),
    Prune(epochs=0, sparsity_m_by_n=(2, 4)),
    Cluster(number_of_clusters=8, preserve_sparsity=False, cluster_per_channel=True, layers=(("head", 4),)),
    Quantize(calibration_samples=7),
)
# A recipe has one stage that comes last; all others without settings above have their defaults.
FURTHER = tuple(cls() for cls in STAGES.builtin if not cls.last and cls not in map(type, STAGES_WITH_SETTINGS))
EVERYTHING = Recipe(
    name="everything",
    stages=(*FURTHER, *STAGES_WITH_SETTINGS),
    training=Training(optimizer="adamw", loss="mse", batch_size=5, seed=11, horizontal_flip=True, shift=0.1),
    export=Export(io="float32", calibration_samples=9, batch="dynamic", compact=False),
    distillation=Distillation(
        losses=(Hinton(temperature=2.0), FitNets(layers=(("a", "b"),), two_stage=0.25)),
        alpha=0.3,
        views=3,
        cache="never",
    ),
)


def one_line(text):
    return text.strip() and "\n" not in text


def test_everything_holds_every_kind_of_value():
    values = [value for stage in EVERYTHING.stages for value in dataclasses.asdict(stage).values()]
    assert {type(value) for value in values} >= {int, float, str, bool, tuple, type(None)}


def test_json_round_trip_is_equal():
    text = EVERYTHING.to_json()
    again = Recipe.from_json(text)
    assert again == EVERYTHING
    assert again.to_json() == text
    assert again.stages[len(FURTHER) + 1].layers == (("dense_1", 0.5), ("stem", False))
    assert again.stages[len(FURTHER) + 1].layers[1][1] is False  # not 0.0
    assert again.stages[len(FURTHER) + 2].sparsity_m_by_n == (2, 4)
    assert again.stages[len(FURTHER) + 1].sparsity_m_by_n is None
    assert again.stages[len(FURTHER) + 3].layers == (("head", 4),)
    assert type(again.stages[len(FURTHER) + 3].layers[0][1]) is int


@pytest.mark.parametrize(
    "stage",
    [
        *(cls() for cls in STAGES.builtin if cls.last),
        Binarize(scheme="xnor", spare_ends=False, layers=(("head", 8),)),
        PostTraining(weight_bits=4, rounding="nearest", max_drop=0.01, layers=(("head", 8), ("stem", False))),
        Quantize(
            weight_bits=3, weight_steps="fixed_point", fractional_bits=-1, max_bytes=1000, layers=(("head", "output"),)
        ),
    ],
)
def test_json_round_trip_of_the_stages_that_end_a_recipe(stage):
    recipe = Recipe(stages=(stage,))
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_json_is_what_a_person_would_write():
    written = json.loads(Recipe(stages=(Prune(final_sparsity=0.25), Quantize()), name="mine").to_json())
    assert set(written) == {"name", "max_drop", "stages", "training", "export", "distillation", "transfer"}
    assert written["name"] == "mine"
    assert [stage["stage"] for stage in written["stages"]] == ["Prune", "Quantize"]
    assert written["stages"][0]["final_sparsity"] == 0.25
    assert written["training"]["learning_rate"] == 1e-3
    short = {"stages": [{"stage": "Prune", "final_sparsity": 0.25}, {"stage": "Quantize"}], "name": "mine"}
    assert Recipe.from_dict(short) == Recipe(stages=(Prune(final_sparsity=0.25), Quantize()), name="mine")


def test_load_reads_a_file(tmp_path):
    (tmp_path / "recipe.json").write_text(EVERYTHING.to_json(), encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.json") == EVERYTHING


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"stages": [{"stage": "Shrink"}]}', ["Shrink", "FineTune, PruneBlocks, PruneChannels, LowRank"]),
        ('{"stages": [{"stage": ["Prune"]}]}', ["['Prune']"]),
        ('{"stages": [{"final_sparsity": 0.5}]}', ["None"]),
        ('{"stages": [null]}', ["None"]),
        ('{"stages": "Prune"}', ["'Prune'", "list"]),
        ('{"stages": null}', ["None", "list"]),
        ("{}", ["stages"]),
        ("[]", ["list"]),
        ('{"stages": [{"stage": "Prune", "final_sparsit": 0.5}]}', ["Prune.final_sparsit", "0.5"]),
        ('{"stages": [{"stage": "Prune", "final_sparsity": "much"}]}', ["Prune.final_sparsity", "'much'"]),
        ('{"stages": [{"stage": "Prune", "final_sparsity": 1.0}]}', ["Prune.final_sparsity", "1.0", "below 1"]),
        ('{"stages": [{"stage": "Prune", "final_sparsity": NaN}]}', ["Prune.final_sparsity", "nan"]),
        ('{"stages": [{"stage": "Prune", "epochs": -1}]}', ["Prune.epochs", "-1"]),
        ('{"stages": [{"stage": "Prune", "epochs": 1.5}]}', ["Prune.epochs", "1.5"]),
        ('{"stages": [{"stage": "Prune", "layers": [["a"]]}]}', ["Prune.layers.0", "['a']"]),
        ('{"stages": [{"stage": "Cluster", "number_of_clusters": 1}]}', ["Cluster.number_of_clusters", "2"]),
        ('{"stages": [{"stage": "Cluster", "cluster_centroids_init": "best"}]}', ["'best'", "kmeans++"]),
        ('{"stages": [{"stage": "Prune", "layers": [["a", "weights"]]}]}', ["Prune", "weights"]),
        ('{"stages": [], "traning": {}}', ["traning"]),
        ('{"stages": [], "training": {"lr": 1}}', ["Recipe.training.lr"]),
        ('{"stages": [], "training": {"seed": -1}}', ["Recipe.training.seed", "-1"]),
        ('{"stages": [], "training": {"learning_rate": 0}}', ["Recipe.training.learning_rate"]),
        ('{"stages": [], "training": {"shift": 1}}', ["Recipe.training.shift"]),
        ('{"stages": [], "training": null}', ["Recipe.training", "None"]),
        ('{"stages": [], "export": {"weights": "int3"}}', ["Recipe.export.weights", "'int3'", "int8"]),
        (
            '{"stages": [], "export": {"weights": "float32", "activations": "int8"}}',
            ["int8 or int4 weights", "float32"],
        ),
        ('{"stages": [], "export": {"activations": "float32", "io": "int8"}}', ["int8 activations"]),
        ('{"stages": [], "distillation": {"losses": [{"loss": "Hintn"}]}}', ["Unknown loss 'Hintn'", "Hinton"]),
        ('{"stages": [], "distillation": {"losses": "Hinton"}}', ["list of 'losses'", "'Hinton'"]),
        ('{"stages": [], "distillation": {"losses": [{"loss": "Hinton", "tau": 4}]}}', ["Hinton.tau", "4"]),
        ('{"stages": [], "distillation": {"alfa": 0.5}}', ["Distillation.alfa", "0.5"]),
        ('{"stages": [', ["not valid JSON"]),
        ("recipe = tfopt.Recipe()", ["not valid JSON"]),
    ],
)
def test_unknown_or_wrong_is_refused_by_name_in_one_line(text, named):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(text)
    assert one_line(str(caught.value))
    for part in named:
        assert part in str(caught.value)


def test_all_findings_are_reported_at_once():
    with pytest.raises(RecipeError, match=r"Prune\.epochs = -1.*; Prune\.power = 0"):
        Recipe.from_json('{"stages": [{"stage": "Prune", "epochs": -1, "power": 0}]}')


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_unreadable_file(tmp_path, content):
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"Cannot read the recipe .*recipe\.json") as caught:
        Recipe.load(path)
    assert one_line(str(caught.value))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((Cluster(), Prune()), "Prune would lose the clusters that Cluster established. Put Prune before Cluster"),
        ((Prune(), Cluster(), FineTune()), "FineTune would lose the clusters that Cluster established"),
        ((Quantize(), FineTune()), "Quantize must be the last stage"),
        ((Quantize(), Prune()), "Quantize must be the last stage"),
        ((Prune(), Quantize(), Cluster()), "Quantize must be the last stage"),
        ((Quantize(), Quantize()), "Quantize must be the last stage"),
    ],
)
def test_wrong_order_is_refused(stages, message):
    with pytest.raises(RecipeError) as caught:
        Recipe(stages=stages)
    assert message in str(caught.value)
    as_file = {"stages": [{"stage": type(stage).__name__} for stage in stages]}
    with pytest.raises(RecipeError) as from_file:
        Recipe.from_dict(as_file)
    assert str(from_file.value) == str(caught.value)


@pytest.mark.parametrize(
    "stages",
    [
        (),
        (Prune(), FineTune(), Prune(), Cluster(), Quantize()),
        (FineTune(), Quantize()),
        (Prune(), FineTune()),
    ],
)
def test_right_order_is_taken(stages):
    assert Recipe(stages=stages).stages == stages


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_quantize_with_float_activations_is_refused(weights):
    with pytest.raises(RecipeError, match=f"Quantize trains for int8.*{weights} weights and float32 activations"):
        Recipe(stages=(Quantize(),), export=Export(weights=weights, activations="float32"))


def test_scaled_multiplies_epochs_and_leaves_the_rest():
    epochs = (0, 1, 2, 3, 10)
    recipe = Recipe(stages=tuple(FineTune(epochs=n, learning_rate=0.5) for n in epochs), name="n")
    half = recipe.scaled(0.5)
    assert [stage.epochs for stage in half.stages] == [0, 1, 1, 2, 5]  # 0.5 -> 1, at least; 1.5 -> 2
    assert [stage.epochs for stage in recipe.scaled(3).stages] == [0, 3, 6, 9, 30]
    assert [stage.epochs for stage in recipe.scaled(1e-9).stages] == [0, 1, 1, 1, 1]
    assert [stage.epochs for stage in recipe.stages] == list(epochs)
    assert half.name == "n"
    assert all(stage.learning_rate == 0.5 for stage in half.stages)
    assert EVERYTHING.scaled(1.0) == EVERYTHING


def test_seeded_changes_the_seed_only():
    other = EVERYTHING.seeded(5)
    assert other.training.seed == 5
    assert other != EVERYTHING
    assert other.seeded(11) == EVERYTHING


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVERYTHING.name = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVERYTHING.stages[0].epochs = 7


def test_an_old_recipe_json_is_read_under_the_names_of_then():
    """Verbatim what 0.2.0 wrote."""
    old = {"stages": [], "export": {"weights": "int8", "ranges": "mse"}}
    with pytest.warns(DeprecationWarning, match="Export.*activation_ranges"):
        assert Recipe.from_dict(old) == Recipe(stages=(), export=Export(activation_ranges="mse"))
    with pytest.raises(RecipeError, match=r"activation_ranges = 'least'"), pytest.warns(DeprecationWarning):
        Recipe.from_dict({"stages": [], "export": {"ranges": "least"}})
    for kind, steps in ((Quantize, "learned"), (PostTraining, "octav")):
        old = {"stages": [{"stage": kind.__name__, "ranges": steps}]}
        with pytest.warns(DeprecationWarning, match=f"{kind.__name__}.*weight_steps"):
            assert Recipe.from_dict(old) == Recipe(stages=(kind(weight_steps=steps),))


@pytest.mark.parametrize("given", [tfopt.Prune(), [tfopt.Prune()], (tfopt.Prune(), tfopt.Quantize())])
def test_stages_alone_are_a_recipe(given):
    stages = tuple(given) if isinstance(given, list | tuple) else (given,)
    assert as_recipe(given) == Recipe(stages=stages)


@pytest.mark.parametrize("given", ["recipe.json", [], [tfopt.Prune], tfopt.Prune, None])
def test_what_is_no_recipe(given):
    with pytest.raises(RecipeError, match=r"Expected a tfopt\.Recipe, a stage or a list of stages; got a"):
        tfopt.optimize(None, given, None)


def test_a_recipe_states_how_images_are_fed():
    fed = Preprocessing(size=(8, 8), color="rgb", scale=(0.1, 0.2, 0.3), offset=-1.0, order="bgr")
    recipe = Recipe(stages=(Prune(),), preprocessing=fed)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert "preprocessing" not in Recipe(stages=(Prune(),)).to_dict()
    with pytest.raises(RecipeError, match=r"states a preprocessing that cannot be read: .*scales"):
        Recipe.from_dict({"stages": [], "preprocessing": {"scales": 2}})


def test_a_recipe_feeds_the_images_of_a_path(tmp_path, write_photos):
    """Loaded alone, without a data.json beside it, it feeds them as it says."""
    write_photos(tmp_path / "photos", 12)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    recipe = Recipe(stages=(), preprocessing=Preprocessing.named("symmetric"), max_drop=None)
    result = optimize(model, recipe, str(tmp_path / "photos"), quiet=True)
    assert result.data["preprocessing"]["offset"] == -1.0 and result.recipe.preprocessing.offset == -1.0
