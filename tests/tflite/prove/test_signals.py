"""Ratios of signal to noise of operators, in decibels, on files whose values are known."""

import math

import numpy as np
import pytest

from tfopt.base.weight_statistics import decibels
from tfopt.tflite.prove.signals import LEAST_DB, Signal, layer_signals
from tfopt.tflite.read import Op, Port, Tensor


class File:
    """A chain of operators on one input; each has a name, a layer, the shape of its result, and a function of x."""

    def __init__(self, *operators, extra=()):
        self.operators, self.batches = operators, []
        shapes = [("input", (1, 4)), *((f"net/{layer}/out", shape) for _, layer, shape, _ in operators)]
        self._tensors = [
            Tensor(index, name, shape, "float32", (), (), None, False, 0) for index, (name, shape) in enumerate(shapes)
        ]
        self._ops = [Op(index, operators[index][0], (index,), (index + 1,)) for index in range(len(operators))]
        self._ops += extra

    @property
    def inputs(self):
        return (Port("input", 0, (None, 4), "float32", (), ()),)

    @property
    def outputs(self):
        return (Port("output", len(self.operators), (None, 4), "float32", (), ()),)

    def tensors(self):
        return self._tensors

    def weights(self):
        return []

    def activation(self, op):
        return ""

    def settings(self, op):
        return {}

    def ops(self):
        return self._ops

    def signals(self, x):
        self.batches.append(x)
        values = x["x"] if isinstance(x, dict) else x
        return {
            number: function(values).reshape(len(values), *shape[1:])
            for number, (_, _, shape, function) in enumerate(self.operators, 1)
        }


def plus(amount):
    return lambda x: x + amount


X = np.full((70, 4), 2.0, np.float32)  # a power of 4


def test_decibels_by_hand():
    reference, lite = (
        File(
            ("FULLY_CONNECTED", "one", (1, 4), plus(noise)),
            ("ADD", "two", (1, 4), plus(0)),
            ("MUL", "end", (1, 4), plus(10 * noise)),
        )
        for noise in (0, 0.2)
    )
    found, missing = layer_signals(reference, lite, X, ["one", "two"], ["end of all"])
    assert missing == []
    assert [(one.layers, one.operator) for one in found] == [
        ("one", "FULLY_CONNECTED"), ("two", "ADD"), ("end of all", "MUL"),
    ]  # fmt: skip
    # Powers of 4 over 0.04, over 0, and over 4.
    assert found[0].sqnr == pytest.approx(20, abs=1e-4)
    assert found[1] == Signal("two", "ADD", math.inf)
    assert found[2].sqnr == pytest.approx(0, abs=1e-6)
    assert [len(batch) for batch in reference.batches] == [len(batch) for batch in lite.batches] == [32, 32, 6]


def test_all_samples_count_once():
    def noisy(x):
        return x + np.where(x[:, :1] > 2.5, 1.0, 0.0)

    x = X.copy()
    x[[0, 40, 69]] = 3.0
    chain = [("ADD", "one", (1, 4), plus(0))]
    (found,), _ = layer_signals(File(*chain), File(("ADD", "one", (1, 4), noisy)), x, ["one"], [""])
    # 67 rows of 4 x 4 and 3 rows of 4 x 9, over 3 rows of 4 x 1.
    assert found.sqnr == pytest.approx(10 * math.log10((67 * 16 + 3 * 36) / 12))


@pytest.mark.parametrize("x", [{"x": X}, X], ids=["by name", "alone"])
def test_inputs_in_both_forms(x):
    reference, lite = (File(("ADD", "one", (1, 4), plus(0))) for _ in range(2))
    layer_signals(reference, lite, x, ["one"], [""])
    for file in (reference, lite):
        assert {type(batch) for batch in file.batches} == {type(x)}
    if isinstance(x, dict):
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in lite.batches]), X)
    else:
        np.testing.assert_array_equal(np.concatenate(lite.batches), X)


def test_a_bad_layer_has_noise_above_a_tenth_of_its_power():
    assert pytest.approx(decibels(10, 1)) == LEAST_DB


@pytest.mark.parametrize(("ours", "theirs"), [(["MUL"], []), ([], ["MUL"]), (["MUL"], ["DIV"]), (["SUB"] * 3, ["DIV"])])
def test_operators_after_others_that_have_no_counterpart(ours, theirs):
    """What is in both files, after what is not, is compared pair by pair: each adds its own number to x."""

    def chain(before):
        common = [("ADD", f"layer{number}", (1, 4), plus(number)) for number in range(3)]
        return File(*((name, "x", (1, 4), plus(9)) for name in before), *common)

    found, _ = layer_signals(chain(ours), chain(theirs), X, ["layer0", "layer1", "layer2"], [""])
    assert [(one.layers, one.sqnr) for one in found] == [(f"layer{number}", math.inf) for number in range(3)]


def test_long_files_of_equal_operators_are_compared():
    common = [("ADD", "one", (1, 4), plus(0))] * 250
    reference, lite = (File((first, "one", (1, 4), plus(0)), *common) for first in ("MUL", "DIV"))
    found, missing = layer_signals(reference, lite, X[:1], ["one"], [""])
    assert (len(found), missing) == (250, ["DIV (0)"])


def test_the_first_result_of_an_operator_is_compared():
    def split(noise, other):
        file = File(("SPLIT", "one", (1, 2), lambda x: x[:, :2] + noise))
        file._ops = [Op(0, "SPLIT", (0,), (1, 2))]
        file._tensors.append(Tensor(2, "half", (1, other), "float32", (), (), None, False, 0))
        first = file.signals
        file.signals = lambda x: first(x) | {2: x[:, 1:] * np.nan}
        return file

    (found,), _ = layer_signals(split(0, 3), split(0.2, 5), X, ["one"], [""])
    assert found.sqnr == pytest.approx(20, abs=1e-4)


def test_operators_pair_by_name_and_shape_in_their_order():
    reference = File(
        ("ADD", "one", (1, 4), plus(1)), ("MUL", "two", (1, 2), lambda x: x[:, :2]), ("ADD", "three", (1, 4), plus(3)),
        ("SUB", "four", (1, 4), plus(4)),
    )  # fmt: skip
    lite = File(
        ("QUANTIZE", "one", (9, 4), plus(0)), ("ADD", "a", (9, 4), plus(1)), ("MUL", "b", (9, 4), plus(2)),
        ("DEQUANTIZE", "x", (9, 4), plus(0)), ("ADD", "c", (9, 4), plus(3)), ("CAST", "d", (9, 4), plus(0)),
        ("DIV", "e", (9, 4), plus(0)),
    )  # fmt: skip
    found, missing = layer_signals(reference, lite, X, ["one", "two", "three", "four"], [""])
    # All pairs are equal; MUL has another shape, DIV no counterpart, and conversions do not count.
    assert [(one.layers, one.operator, one.sqnr) for one in found] == [
        ("one", "ADD", math.inf), ("three", "ADD", math.inf),
    ]  # fmt: skip
    assert missing == ["MUL (2)", "DIV (6)"]


def test_only_operators_of_the_main_graph_with_results_count():
    inner = [Op(1, "ADD", (0,), (1,), subgraph=1), Op(2, "ASSIGN_VARIABLE", (1,), ())]
    reference, lite = (File(("ADD", "one", (1, 4), plus(0)), extra=inner) for _ in range(2))
    lite._tensors = [*lite._tensors, Tensor(1, "inner", (7, 7), "float32", (), (), None, False, 0, subgraph=1)]
    found, missing = layer_signals(reference, lite, X, ["one"], [""])
    assert [one.operator for one in found] == ["ADD"] and missing == []


def test_results_of_another_layout_are_compared_value_by_value():
    transposed = File(("ADD", "one", (1, 4), plus(0)))
    transposed.signals = lambda x: {1: x.reshape(len(x), 2, 2)}
    (found,), _ = layer_signals(File(("ADD", "one", (1, 4), plus(0))), transposed, X, ["one"], [""])
    assert found.sqnr == math.inf
