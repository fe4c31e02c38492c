"""Operators of two files that belong together, on graphs whose right pairs are known."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.evaluate.verify import layer_signals
from tfopt.tflite.prove.pairing import paired
from tfopt.tflite.read import LiteModel, Op, Port, Tensor, Weight
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.converter import convert

LINE = (1, 4)


class File:
    """Operators (kind, result, *what it reads[, activation after a "+" in the kind]); the first reads "x" or "y".

    A result that ends with a digit in brackets, "a[0]", has constants that tell it apart.
    """

    def __init__(self, *operators, outputs=("out",), inputs=("x", "y"), shapes=None):
        names = [*inputs, *(result for _, result, *_ in operators)]
        self._at = {name: at for at, name in enumerate(names)}
        shapes = shapes or {}
        self._tensors = [
            Tensor(at, f"t{at}", shapes.get(name, LINE), "float32", (), (), None, False, 0)
            for name, at in self._at.items()
        ]
        self._ops = [
            Op(at, kind.partition("+")[0], tuple(self._at[name] for name in read), (self._at[result],))
            for at, (kind, result, *read) in enumerate(operators)
        ]
        self._fused = [kind.partition("+")[2] for kind, *_ in operators]
        self.results = [result for _, result, *_ in operators]
        self.inputs, self.outputs = (
            tuple(Port(name, self._at[name], (None, 4), "float32", (), ()) for name in ends)
            for ends in (inputs, outputs)
        )

    def tensors(self):
        return self._tensors

    def ops(self):
        return self._ops

    def weights(self):
        """One for each matrix product, by the name of its result: e.g. the kernel of "a2" is (0, 0, 1, 0)."""
        for op in self._ops:
            if op.name == "FULLY_CONNECTED":
                kernel = np.eye(4, dtype=np.float32)[int(self.results[op.index][1])]
                yield Weight(self._tensors[0], op.name, kernel, kernel, 0, (op,))

    def activation(self, op):
        return self._fused[op.index]

    def settings(self, op):
        name = self.results[op.index]
        return {"at": name} if "[" in name else {}


def results(reference, lite):
    """The pairs by the names of their results, those that are stored only, and those without a pair."""
    pairs, alone = paired(reference, lite, ())
    found = {
        lite.results[b.op.index]: reference.results[a.op.index] for a, b in pairs if None not in (a.tensor, b.tensor)
    }
    return found, [lite.results[step.op.index] for step in alone]


def same(*names):
    return {name: name for name in names}


def test_parallel_branches_in_another_order_are_told_apart_by_their_readers():
    branches = [("CONV_2D", name, "x") for name in "abc"]
    rest = [("CONCATENATION", "joined", "a", "b", "c"), ("CONV_2D", "out", "joined")]
    expected = same("a", "b", "c", "joined", "out")
    assert results(File(*branches, *rest), File(*branches[::-1], *rest)) == (expected, [])


def test_parallel_branches_of_a_sum_are_told_apart_by_what_the_operators_do():
    branches = [("STRIDED_SLICE", f"a[{number}]", "x") for number in range(3)]
    rest = [("ADD", "sum", "a[0]", "a[1]"), ("ADD", "out", "sum", "a[2]")]
    swapped = [("ADD", "sum", "a[1]", "a[0]"), ("ADD", "out", "a[2]", "sum")]
    found = results(File(*branches, *rest), File(*branches[::-1], *swapped))
    assert found == (same("a[0]", "a[1]", "a[2]", "sum", "out"), [])


def test_an_operator_without_a_certain_counterpart_has_none():
    """One of two equal sums is missing, and nothing tells which."""
    long = File(("ADD", "a", "x"), ("ADD", "b", "a"), ("ADD", "c", "b"), ("SUB", "out", "c", "y"))
    short = File(("ADD", "a", "x"), ("ADD", "c", "a"), ("SUB", "out", "c", "y"))
    found, alone = results(long, short)
    assert found == same("a", "out") and alone == ["c"]


@pytest.mark.parametrize("flipped", [False, True])
def test_an_operator_that_one_branch_lacks_does_not_shift_the_others(flipped):
    """Branch `a` has three equal operators in one file and two in the other; those of `b` keep their pairs."""
    b = [("FULLY_CONNECTED", f"b{number}", before) for number, before in enumerate(["y", "b0", "b1"])]
    long = [("FULLY_CONNECTED", f"a{number}", before) for number, before in enumerate(["x", "a0", "a1"])]
    short = [("FULLY_CONNECTED", "a0", "x"), ("FULLY_CONNECTED", "a2", "a0")]
    end = [("SUB", "out", "a2", "b2")]
    files = [File(*long, *b, *end), File(*short, *b, *end)]
    found, alone = results(*(reversed(files) if flipped else files))
    assert found == same("a0", "a2", "b0", "b1", "b2", "out")
    assert alone == (["a1"] if flipped else [])


def test_a_fused_activation_is_compared_with_the_separate_one():
    fused = File(("CONV_2D+RELU", "b", "x"), ("CONV_2D", "out", "b"))
    apart = File(("CONV_2D", "a", "x"), ("RELU", "b", "a"), ("CONV_2D", "out", "b"))
    assert results(fused, apart) == (same("b", "out"), [])
    assert results(apart, fused) == (same("b", "out"), [])


def test_a_layer_that_is_called_thrice_is_paired_call_by_call():
    calls = [("CONV_2D", "a", "x"), ("CONV_2D", "b", "a"), ("CONV_2D", "c", "b"), ("CONV_2D", "d", "y")]
    end = [("CONCATENATION", "out", "d", "b", "c")]
    other = [calls[3], *calls[:3]]
    assert results(File(*calls, *end), File(*other, *end)) == (same("a", "b", "c", "d", "out"), [])


def test_types_and_shapes_only_connect():
    plain = File(("CONV_2D", "a", "x"), ("CONV_2D", "b", "a"), ("CONV_2D", "out", "b"))
    steps = [("QUANTIZE", "q", "x"), ("CONV_2D", "a", "q"), ("RESHAPE", "r", "a"), ("DEQUANTIZE", "w", "r")]
    converted = File(
        *steps, ("CONV_2D", "b", "w"), ("CONV_2D", "c", "b"), ("CAST", "out", "c"), shapes={"r": (1, 2, 2)}
    )
    assert results(plain, converted) == ({"a": "a", "b": "b", "c": "out"}, ["r"])


def test_inputs_and_outputs_go_by_name():
    ends = {"inputs": ("y", "x"), "outputs": ("two", "one")}
    made = [("CONV_2D", "one", "x"), ("CONV_2D", "two", "y")]
    assert results(File(*made, outputs=("one", "two")), File(*made[::-1], **ends)) == (same("one", "two"), [])


def test_what_is_connected_to_neither_end_keeps_the_order_of_the_graph():
    """Other operators stand at both ends of the file; between them nothing may pair with its successor's pair."""
    line = [("ADD", "a", "i"), ("MUL", "b", "a"), ("ADD", "c", "b")]
    files = [File((first, "i", "x"), *line, (last, "out", "c")) for first, last in (("SUB", "DIV"), ("DIV", "SUB"))]
    assert results(*files) == (same("a", "b", "c"), ["i", "out"])


def branches():
    """Four convolutions of one input and shape, two of them nearly dead, joined in another order than they are made."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = layers.Input((6, 6, 4))
    made = [layers.Conv2D(4, 3, name=f"conv{number}") for number in range(4)]
    outputs = [layer(inputs) for layer in made]
    for number in (1, 2):
        kernel, bias = made[number].get_weights()
        made[number].set_weights([kernel * np.array([1e-4, 1e-5, 1, 1]), bias])
    joined = layers.Concatenate()([outputs[number] for number in (2, 0, 3, 1)])
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D(name="mean")(joined)))


def with_operators_reversed(data, count):
    """The file with its first `count` operators in the opposite order; they do not read each other."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    operators = model.subgraphs[0].operators
    model.subgraphs[0].operators = [*operators[:count][::-1], *operators[count:]]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """The model, samples, and its int8 file with the convolutions in the opposite order and no names."""
    model, x = branches(), np.random.default_rng(2).normal(size=(64, 6, 6, 4)).astype("float32")
    path = tmp_path_factory.mktemp("pairs") / "int8.tflite"
    tfopt.export_tflite(model, path, tfopt.Export(), representative_data=x)
    return model, x, LiteModel(with_operators_reversed(path.read_bytes(), 4))


def test_a_real_file_is_paired_by_what_it_computes(int8):
    model, _, lite = int8
    assert [op.name for op in lite.ops()][:4] == ["CONV_2D"] * 4
    flat_model = bridge.to_tf_keras(model)
    reference = LiteModel(convert(flat_model, FLOAT))
    pairs, alone = paired(reference, lite, [layer.name for layer in flat_model.layers])
    assert not alone
    for one, other in pairs[:4]:  # the kernels of a pair differ by rounding alone
        kernels = [
            next(weight.dequantized for weight in file.weights() if weight.readers[0].index == op.index)
            for file, op in ((reference, one.op), (lite, other.op))
        ]
        assert np.abs(kernels[0] - kernels[1]).max() < np.abs(kernels[0]).max() / 100


def test_no_layer_of_a_reordered_file_is_called_bad(int8):
    model, x, lite = int8
    found, missing = layer_signals(model, lite, x)
    assert missing == []
    assert {one.layers for one in found[:4]} == {f"conv{number}" for number in range(4)}
    assert found[-1].layers == "head"
    assert min(one.sqnr for one in found) > 25  # int8 rounding; another branch has less than 3 dB
