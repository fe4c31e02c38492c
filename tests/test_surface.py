"""Where the public names are: at the top, in the namespaces, and for one release where they were in 0.1."""

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import tfopt
from tfopt.distillation.losses import LOSSES
from tfopt.transfer import TRANSFERS

PAGE = Path(__file__).parent.parent / "docs" / "names.md"
NAMESPACES = ("extend", "inputs", "losses", "self_taught", "training", "transfer")
# The names of 0.1, by where they are now.
MOVED = {
    "losses": """AttentionTransfer BoundedRegression DIST DKD FSP FitNets Hinton L2 L2SP MultilabelKD PKT RKD
        RegressionKD SimilarityPreserving StandardizedKD TeacherFree VID""",
    "transfer": """DepthStudy FeatureTransfer Head HubModule ParameterTransfer Ranking StructureTransfer
        TransferredWeights extract_features feature_extractor h_score hub_layer leep logme new_head open_hub
        rank_sources repeatable_blocks restructure transfer_weights""",
    "training": "LearningRates cosine_schedule find_learning_rate frozen layer_rates one_cycle_schedule unfrozen",
    "self_taught": "BornAgain EarlyExits born_again early_exits mean_teacher mutual",
    "extend": "register_twin",
}
OLD = [(place, name) for place, names in MOVED.items() for name in names.split()]


def test_there_are_few_names_at_the_top():
    assert 30 <= len(tfopt.__all__) <= 42
    assert len(set(tfopt.__all__)) == len(tfopt.__all__)
    assert set(tfopt.__all__) == tfopt._HOMES.keys()


def test_every_name_of_the_last_release_is_somewhere():
    assert len(OLD) + len(tfopt.__all__) == 92
    assert {name for _, name in OLD}.isdisjoint(tfopt.__all__)


@pytest.mark.parametrize(("place", "name"), OLD)
def test_an_old_name_is_the_same_object_and_names_the_new_one(place, name):
    wanted = getattr(importlib.import_module(f"tfopt.{place}"), name)
    with pytest.warns(DeprecationWarning) as caught:
        assert getattr(tfopt, name) is wanted
    (warning,) = caught
    assert str(warning.message) == f"tfopt.{name} moved to tfopt.{place}.{name}; the old name will be removed in 0.3.0."
    assert warning.filename == __file__
    assert wanted.__name__ == name


def test_an_import_of_an_old_name_points_at_the_import():
    with pytest.warns(DeprecationWarning) as caught:
        from tfopt import Hinton
    assert Hinton is tfopt.losses.Hinton
    assert {warning.filename for warning in caught} == {__file__}


def test_nothing_offers_an_old_name():
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from tfopt import *", names)
        for name in dir(tfopt):
            getattr(tfopt, name)
    assert {name for _, name in OLD}.isdisjoint({*names, *dir(tfopt)})
    assert names.keys() - {"__builtins__"} == set(tfopt.__all__)


@pytest.mark.parametrize("place", NAMESPACES)
def test_a_namespace_has_what_it_says(place):
    module = importlib.import_module(f"tfopt.{place}")
    assert getattr(tfopt, place) is module and place in dir(tfopt)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(MOVED.get(place, "").split()) <= set(module.__all__)


def test_every_loss_and_transfer_of_tfopt_is_in_its_namespace():
    for kinds, place in ((LOSSES, tfopt.losses), (TRANSFERS, tfopt.transfer)):
        own = {cls.__name__: cls for cls in kinds if cls.__module__.startswith("tfopt.")}
        assert len(own) >= 4
        assert {name: getattr(place, name) for name in own} == own


def test_what_other_packages_build_from_is_in_one_place():
    """The bases of everything that a recipe.json names, what their methods return, and how to register them."""
    wanted = {"Stage", "Loss", "FeatureLoss", "Transfer", "LossInputs", "Transferred", "Promise", "Decision", "Task"}
    assert wanted | {"config", "register", "register_twin"} <= set(tfopt.extend.__all__)


def test_the_namespaces_are_there_after_import_tfopt_and_light():
    code = (
        "import sys, warnings, tfopt\n"
        f"for place in {NAMESPACES}: assert f'tfopt.{{place}}' not in sys.modules\n"
        "tfopt.losses.Hinton(), tfopt.transfer.Head(), tfopt.training.frozen, tfopt.self_taught.mutual\n"
        "tfopt.extend.Stage\n"
        "warnings.simplefilter('ignore')\n"
        "tfopt.Hinton, tfopt.rank_sources, tfopt.born_again, tfopt.layer_rates, tfopt.register_twin\n"
        "assert not {'tensorflow', 'keras', 'tf_keras', 'ai_edge_litert'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_page_has_every_name_where_it_is():
    """The first cell of each row of docs/names.md has names; a name at the top appears without its namespace."""
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`tfopt\.([\w.]+)`", row)]
    assert len(set(listed)) == len(listed)
    inside = [f"{place}.{name}" for place in NAMESPACES for name in getattr(tfopt, place).__all__]
    tables = {"losses.LOSSES", "transfer.TRANSFERS"}  # in the registry, for tfopt's own files
    twice = {f"losses.{name}" for name in ("FeatureLoss", "LossInputs", "Loss")} | {
        "transfer.Transfer",
        "transfer.Transferred",
    }
    assert set(listed) == {*tfopt.__all__, *inside} - tables - twice
