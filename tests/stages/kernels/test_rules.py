"""Rules are tested on plain stand-ins for layers: they use only a name and a class name."""

import pytest

from tfopt.errors import RecipeError
from tfopt.stages.kernels.rules import choose


class Conv2D:
    def __init__(self, name):
        self.name = name


class Dense(Conv2D):
    pass


LAYERS = (Conv2D("stem"), Conv2D("stem_2"), Dense("head"), Dense("Conv2D_like"))
DEFAULT = {"stem": True, "stem_2": False, "head": True, "Conv2D_like": 0.1}


@pytest.mark.parametrize(
    ("rules", "changed"),
    [
        pytest.param((), {}, id="no rule: the defaults"),
        pytest.param((("head", False),), {"head": False}, id="a name"),
        pytest.param((("stem", 0.7),), {"stem": 0.7}, id="a name is no prefix"),
        pytest.param((("Conv2D", 3),), {"stem": 3, "stem_2": 3}, id="a class name"),
        pytest.param((("stem*", 0.9),), {"stem": 0.9, "stem_2": 0.9}, id="a star"),
        pytest.param((("stem_?", True),), {"stem_2": True}, id="a question mark"),
        pytest.param((("De*", False),), {"head": False, "Conv2D_like": False}, id="a star in a class name"),
        pytest.param((("Conv2D*", False),), dict.fromkeys(("stem", "stem_2", "Conv2D_like"), False), id="either name"),
        pytest.param((("stem", 0.2), ("*", False)), dict.fromkeys(DEFAULT, False) | {"stem": 0.2}, id="first wins"),
        pytest.param((("Dense", 0.3), ("head", 0.8), ("stem", 1))[::2], {"head": 0.3, "Conv2D_like": 0.3, "stem": 1},
                     id="several"),
    ],
)  # fmt: skip
def test_the_first_rule_that_matches_a_layer_sets_it(rules, changed):
    assert choose(rules, LAYERS, DEFAULT) == {**DEFAULT, **changed}


def test_settings_come_in_the_order_of_the_layers_and_take_any_iterable():
    chosen = choose(iter([("*", 0.5)]), iter(LAYERS), DEFAULT)
    assert list(chosen.items()) == [("stem", 0.5), ("stem_2", 0.5), ("head", 0.5), ("Conv2D_like", 0.5)]


@pytest.mark.parametrize("pattern", ["sten", "STEM", "conv2d", "", "hea"])
def test_a_rule_that_matches_nothing_is_refused_with_the_names_it_could_match(pattern):
    with pytest.raises(RecipeError, match=r"matches no layer.*stem \(Conv2D\).*head \(Dense\)"):
        choose(((pattern, True),), LAYERS, DEFAULT)


@pytest.mark.parametrize(
    "rules",
    [
        (("*", False), ("head", True)),
        (("head", True), ("head", False)),
        (("stem", 0.1), ("stem_2", 0.2), ("Conv2D", 0.3)),
    ],
)
def test_a_rule_after_others_that_leave_it_nothing_is_refused(rules):
    with pytest.raises(RecipeError, match="no effect: earlier rules already cover"):
        choose(rules, LAYERS, DEFAULT)


def test_rules_go_by_the_callers_names_beside_a_separable_convolution():
    import keras

    from tfopt import Prune
    from tfopt.bridge import to_tf_keras

    layers = [keras.layers.SeparableConv2D(2, 1, name="split"), keras.layers.Conv2D(2, 1, name="conv2d_7")]
    model = keras.Sequential([keras.Input((4, 4, 2)), *layers])
    flat = to_tf_keras(model)
    assert "own_conv2d_7" in {layer.name for layer in flat.layers}
    for pattern in ("conv2d_7", "own_conv2d_7"):
        chosen = choose([(pattern, 0.25)], flat.layers, {layer.name: True for layer in flat.layers})
        assert chosen["own_conv2d_7"] == 0.25
        assert chosen["split"] is True
        stage = Prune(final_sparsity=0.5, layers=((f"{pattern}/kernel", 0.25),))
        stage.apply(model, steps=2)  # raises where the rule matches nothing
