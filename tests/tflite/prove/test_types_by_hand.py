"""Types in a file against those that were promised, on files made up tensor by tensor: every note is known."""

import numpy as np
import pytest

from tfopt.errors import ModelError, PromiseError
from tfopt.tflite.prove.types import contents, float_operators, port_in_words, port_notes, verify_finite, verify_types
from tfopt.tflite.read import Op, Port, Tensor, Weight
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export

INT8, INT16 = Export(), Export(activations="int16")
DYNAMIC = Export(activations="float32")
FOUR = Export(weights="int4", activations="float32")
UNPACKED = Export(weight_only=True, activations="float32")
FLOATS = ("float32", "float16")


class File:
    """As much of a `LiteModel` as the types need: add tensors and operators, then weights follow from the constants."""

    labels: tuple[str, ...] = ()
    size, deflated = 12_345, 6_789

    def __init__(self, border="int8"):
        self._tensors, self._ops, self.inputs, self.outputs = [], [], (), ()
        self.border = border
        self.inputs, self.outputs = (self.port("given"),), (self.port("result"),)

    def port(self, name, dtype=None, scales=None):
        dtype = dtype or self.border
        scales = ((0.5,) if dtype.startswith(("int", "uint")) else ()) if scales is None else scales
        index = self.tensor(name, dtype, scales=scales)
        return Port(name, index, (None, 4), dtype, scales, (3,) * len(scales))

    def tensor(self, name, dtype="int8", *, shape=(4, 4), scales=None, constant=False, subgraph=0, sparse=False):
        """Add a tensor; return its index."""
        scales = (() if dtype in FLOATS else (0.5,)) if scales is None else scales
        index = sum(tensor.subgraph == subgraph for tensor in self._tensors)
        points = (0,) * len(scales)
        made = Tensor(index, name, shape, dtype, scales, points, None, constant, 0, subgraph=subgraph, sparse=sparse)
        self._tensors.append(made)
        return index

    def op(self, name, inputs, outputs, subgraph=0):
        self._ops.append(Op(len(self._ops), name, tuple(inputs), tuple(outputs), subgraph))
        return self._ops[-1]

    def layer(self, name, weights="int8", gives="int8", *, kind="CONV_2D", through=(), subgraph=0, **options):
        """Add an operator with a constant, which the operators `through` unpack, and its result. Return it."""
        found = self.tensor(f"net/{name}/kernel", weights, constant=True, subgraph=subgraph, **options)
        for step in through:
            unpacked = self.tensor(f"net/{name}/unpacked", "float32", subgraph=subgraph)
            self.op(step, [found], [unpacked], subgraph)
            found = unpacked
        result = self.tensor(f"net/{name}/out", gives, subgraph=subgraph)
        return self.op(kind, [0, found], [result], subgraph)

    def tensors(self):
        return list(self._tensors)

    def ops(self):
        return list(self._ops)

    def weights(self):
        def weight(tensor):
            values = np.zeros(tensor.shape, tensor.dtype if tensor.dtype != "int4" else "int8")
            return Weight(tensor, "?", values, values.astype("f"), 0, readers=self.readers(tensor))

        return [weight(tensor) for tensor in self._tensors if tensor.constant]

    def readers(self, tensor):
        places = [tensor.index]
        found = []
        for op in self._ops:
            if op.subgraph == tensor.subgraph and set(op.inputs) & set(places):
                if op.name in ("DEQUANTIZE", "DENSIFY"):
                    places += op.outputs
                else:
                    found.append(op)
        return tuple(found)

    def float_tensors(self):
        return [t.name for t in self._tensors if t.dtype in FLOATS and t.name not in ("given", "result", "unused")]

    def verified(self, settings, in_float=(), layers=("one", "two", "three")):
        return verify_types(self, settings, dict(in_float), LayerNames(self, layers))


# What a file holds


def test_contents_by_hand():
    file = File("uint8")
    file.layer("one", "int8", shape=(3, 5))
    file.layer("two", "int8", shape=(2, 2))
    file.layer("three", "float32", "float32", shape=(7,), through=["DENSIFY"], sparse=True)
    file.op("DEQUANTIZE", [0], [file.tensor("later", "float32")])  # of no constant
    file.op("ASSIGN_VARIABLE", [0], [])
    file.op("SPLIT", [0], [file.tensor("half", "int16"), file.tensor("other half", "int8")])
    found = contents(file)
    assert found.weights == {"int8": 19, "float32 sparse": 7}
    assert found.operators == {"int8": 2, "float32": 2, "int16": 1}
    assert (found.inputs, found.outputs) == (
        ("given uint8 (None, 4) x 0.5 from 3",),
        ("result uint8 (None, 4) x 0.5 from 3",),
    )
    assert (found.labels, found.bytes, found.deflated) == ((), 12_345, 6_789)
    table = found.table("a file")
    names, values = (list(column.cells) for column in table.columns)
    assert table.title == "a file" and table.title_justify == "left" and not table.show_header
    assert dict(zip(names, values, strict=True)) == {
        "inputs": "given uint8 (None, 4) x 0.5 from 3",
        "outputs": "result uint8 (None, 4) x 0.5 from 3",
        "weights": "19 int8, 7 float32 sparse",
        "operators by output type": "2 int8, 2 float32, 1 int16",
        "bytes": "12,345, 6,789 deflated",
    }


def test_a_table_of_a_file_without_weights_but_with_classes():
    file = File()
    file.labels = ("cat", "dog")
    table = contents(file).table("a file")
    names, values = (list(column.cells) for column in table.columns)
    assert dict(zip(names, values, strict=True))["weights"] == "none"
    assert dict(zip(names, values, strict=True))["classes"] == "cat, dog"
    assert "operators by output type" not in names


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (Port("x", 0, (None, 4), "float32", (), ()), "x float32 (None, 4)"),
        (Port("x", 0, (1,), "int8", (0.123456,), (-7,)), "x int8 (1,) x 0.1235 from -7"),
    ],
)
def test_an_input_in_words(port, words):
    assert port_in_words(port) == words


# Inputs and outputs


@pytest.mark.parametrize(
    ("dtype", "scales", "wrong"),
    [
        ("int32", (), False),  # indices
        ("int64", (), False),
        ("bool", (), False),
        ("int8", (0.5,), False),
        ("int32", (0.5,), True),
        ("uint8", (0.5,), True),
        ("float32", (), True),
        ("float16", (), True),
    ],
)
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_borders(dtype, scales, wrong, side):
    file, asked = File(), Export(io="int8")
    setattr(file, side, (*getattr(file, side), file.port("odd", dtype, scales)))
    file.op("QUANTIZE", [port.index for port in file.inputs], [file.outputs[0].index])
    if not wrong:
        assert file.verified(asked, {"one": "why"}) == []
        return
    with pytest.raises(PromiseError, match=f"int8 inputs and outputs were promised, but 'odd' is {dtype} in the file"):
        file.verified(asked, {"one": "why"})
    if dtype in FLOATS:  # beside a float operator, unless a type is asked for
        assert file.verified(INT8, {"one": "why"}) == []
        (note,) = port_notes(file, INT8)
        assert note == "float32 and not int8, next to operators in float: 'odd'"


def test_an_input_that_nothing_reads_may_have_any_type():
    file = File()
    file.inputs += (file.port("unused", "float32"),)
    file.op("QUANTIZE", [file.inputs[0].index], [file.outputs[0].index])
    assert file.verified(INT8) == []
    assert port_notes(file, INT8) == ["nothing in the model uses its input 'unused'"]


# Activations


def test_integers_everywhere_deserve_no_note():
    file = File()
    file.layer("one")
    file.layer("two", "int4")
    file.op("ASSIGN_VARIABLE", [0], [])
    file.op("ARG_MAX", [0], [file.tensor("index", "int64", scales=())])
    file.op("QUANTIZE", [0], [file.outputs[0].index])
    assert file.verified(INT8) == []


def test_float_tensors_in_an_integer_file():
    file = File()
    for name in "abcdef":
        file.tensor(name, "float32")
    file.layer("one", gives="float32")
    with pytest.raises(PromiseError) as caught:
        file.verified(INT8)
    assert str(caught.value).startswith(
        "int8 everywhere was promised, but 7 tensors of the .tflite are float: a, b, c, d, e. Float operators: "
        "one (CONV_2D). Nothing that it computes has integers: export with"
    )


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_activations_of_another_width(activations):
    file, other = File(activations), {"int8": "int16", "int16": "int8"}[activations]
    file.layer("one", gives=activations)
    file.layer("two", gives=other)
    parts = [file.tensor("net/three/out", "uint8"), file.tensor("net/three/out2", activations)]
    file.op("SPLIT", [0], parts)
    with pytest.raises(PromiseError) as caught:
        file.verified(Export(activations=activations))
    assert str(caught.value) == (
        f"{activations} activations were promised, but two (CONV_2D); three (SPLIT) produce {other}, uint8 in the "
        "file. Replace the layers, or export with other activations."
    )


def looking_up(readers=("QUANTIZE",), *, kind="GATHER", constant=True):
    """A 16x8 file in which int8 rows go to `readers`; another graph has a reader of a tensor of the same number."""
    file = File("int16")
    table = file.tensor("table", "int8", constant=constant)
    numbers = file.tensor("numbers", "int32", scales=(), constant=not constant)
    rows = file.tensor("rows", "int8")
    file.op(kind, [table, numbers], [rows])
    for reader in readers:
        file.op(reader, [rows], [file.tensor(f"of {reader}", "int16")])
    for _ in range(rows + 2):
        file.tensor("elsewhere", "int16", subgraph=1)
    file.op("ADD", [rows], [rows + 1], subgraph=1)
    return file


@pytest.mark.parametrize(
    ("file", "allowed"),
    [
        (looking_up(), True),
        (looking_up(["QUANTIZE", "QUANTIZE"]), True),
        (looking_up([]), False),
        (looking_up(["ADD"]), False),
        (looking_up(["RESHAPE"]), False),
        (looking_up(["QUANTIZE", "ADD"]), False),
        (looking_up(kind="ADD"), False),
        (looking_up(kind="RESHAPE"), False),
        (looking_up(constant=False), False),
    ],
)
def test_rows_of_an_int8_table_that_are_rescaled(file, allowed):
    if allowed:
        assert file.verified(INT16) == []
        return
    with pytest.raises(PromiseError, match=r"int16 activations were promised, but .* produce int8"):
        file.verified(INT16)


def test_an_end_may_have_another_width_than_the_activations():
    file = File("uint8")
    file.layer("one")
    file.op("QUANTIZE", [0], [file.outputs[0].index])
    file.op("QUANTIZE", [0], [file.inputs[0].index])  # a loop would write into the input
    assert file.verified(Export(io="uint8")) == []


# Weights


def test_float_files_have_float_weights():
    for kind in FLOATS:
        settings = Export(weights=kind, activations="float32")
        file = File("float32")
        file.layer("one", kind, "float32")
        file.layer("two", kind, "float32", through=["DEQUANTIZE"])
        assert file.verified(settings) == []
        file.layer("three", "int8", "float32", shape=(1, 2), through=["DEQUANTIZE"])
        with pytest.raises(PromiseError) as caught:
            file.verified(settings)
        assert str(caught.value) == (
            f"{kind} weights were promised, but net/three/kernel is int8: the converter has no {kind} form for it. It "
            "is read by three (CONV_2D)."
        )


@pytest.mark.parametrize(
    ("size", "settings", "allowed"),
    [
        (1023, DYNAMIC, True),
        (1024, DYNAMIC, False),
        (1, INT8, False),
        (1024, UNPACKED, True),
        (1024, FOUR, True),
    ],
)
def test_how_large_a_kernel_may_stay_in_float(size, settings, allowed):
    file = File(settings.border)
    kept = "int4" if settings is FOUR else "int8"
    file.layer("one", kept, settings.activations, through=["DEQUANTIZE"] if settings is UNPACKED else ())
    file.layer("two", "float32", settings.activations, shape=(1, size))
    file.layer("three", "float32", settings.activations, shape=(1,))
    if settings is INT8:
        file.float_tensors = list  # so that only the weights are wrong
    if allowed:
        assert file.verified(settings) == ["float32 weights left: two (CONV_2D); three (CONV_2D)"]
        return
    with pytest.raises(PromiseError, match=r"int8 weights were promised, but net/(two|three)/kernel is float32"):
        file.verified(settings)


def test_weights_that_the_converter_takes_for_activations_are_as_wide():
    file = File("int16")
    file.layer("one", "int8", "int16")
    file.layer("two", "int16", "int16")
    assert file.verified(INT16) == ["int16 weights, since the converter has no int8 form for them: two (CONV_2D)"]
    file = File("int8")
    file.layer("two", "int16", "int8")
    with pytest.raises(PromiseError, match=r"int8 weights were promised, but net/two/kernel is int16"):
        file.verified(INT8)


def test_the_largest_wrong_weight_is_named():
    file = File("float32")
    for name, side in (("one", 40), ("two", 90), ("three", 50)):
        file.layer(name, "float32", "float32", shape=(side, side))
    with pytest.raises(PromiseError, match=r"net/two/kernel is float32.* read by two \(CONV_2D\)"):
        file.verified(DYNAMIC)


@pytest.mark.parametrize("settings", [UNPACKED, FOUR])
def test_a_file_in_which_no_weight_has_the_form(settings):
    file = File("float32")
    file.layer("one", "float32", "float32")
    file.layer("two", "float32", "float32", kind="MUL")
    with pytest.raises(PromiseError) as caught:
        file.verified(settings)
    assert str(caught.value) == (
        f"{settings.weights} weights were promised, but no operator of the file has a form for them: one (CONV_2D); "
        "two (MUL)."
    )
    assert File("float32").verified(settings) == []  # of no weights, none is wrong


def test_small_kernels_of_a_dynamic_file_may_all_stay():
    file = File("float32")
    file.layer("one", "float32", "float32")
    file.layer("two", "float16", "float32")
    assert file.verified(DYNAMIC) == ["float32, float16 weights left: one (CONV_2D); two (CONV_2D)"]


def test_eight_bits_instead_of_four_are_a_note():
    file = File("float32")
    file.layer("one", "int4", "float32")
    file.layer("two", "int8", "float32", shape=(99, 99))
    file.layer("three", "float16", "float32")
    assert file.verified(FOUR) == [
        "int8 weights, since no operator supports 4 bits: two (CONV_2D)",
        "float16 weights left: three (CONV_2D)",
    ]


def test_unsigned_bytes_are_no_eight_bits_instead_of_four():
    file = File("float32")
    file.layer("one", "int4", "float32")
    file.layer("two", "uint8", "float32")
    assert file.verified(FOUR) == ["uint8 weights left: two (CONV_2D)"]


def test_eight_bits_instead_of_four_beside_integers():
    file = File()
    file.layer("one", "int4")
    file.layer("two", "int8", shape=(99, 99))
    assert file.verified(Export(weights="int4")) == ["int8 weights, since no operator supports 4 bits: two (CONV_2D)"]


@pytest.mark.parametrize("through", [["DEQUANTIZE"], ["DENSIFY", "DEQUANTIZE"], ["DEQUANTIZE", "DENSIFY"]])
def test_integer_weights_that_are_computed_with_in_float(through):
    file = File("float32")
    file.layer("one", "int8", "float32", through=through)
    file.layer("two", "int8", "float32")
    note = "integer weights, but computed in float, since no integer operator exists: one (CONV_2D)"
    assert file.verified(DYNAMIC) == [note]
    with pytest.raises(PromiseError, match=r"Weight-only integers were promised, but two \(CONV_2D\) compute with"):
        file.verified(UNPACKED)


def test_weight_only_integers():
    file = File("float32")
    file.layer("one", "int8", "float32", through=["DEQUANTIZE"])
    file.layer("two", "float32", "float32")  # no integers, so it may be read as it is
    assert file.verified(UNPACKED) == ["float32 weights left: two (CONV_2D)"]


def test_dense_weights_are_read_directly_after_their_zeros_are_back():
    file = File("float32")
    file.layer("one", "int8", "float32", through=["DENSIFY"])
    file.layer("two", "float16", "float32", through=["DEQUANTIZE"])  # a float is not an integer computed in float
    assert file.verified(DYNAMIC) == ["float16 weights left: two (CONV_2D)"]


def test_integers_of_an_integer_file_may_be_unpacked_without_a_note():
    file = File()
    file.layer("one", through=["DEQUANTIZE"])
    file.float_tensors = list
    assert file.verified(INT8) == []


def test_sparse_kernels_are_noted():
    settings = Export(activations="float32", sparse=True)
    file = File("float32")
    file.layer("one", "int8", "float32")
    assert file.verified(settings) == ["no kernel has enough zeros to be stored sparsely"]
    file.layer("two", "int8", "float32", through=["DENSIFY"], sparse=True)
    assert file.verified(settings) == ["stored sparsely: two (CONV_2D)"]
    assert file.verified(DYNAMIC) == []


def test_the_first_reader_of_a_weight_is_named_in_its_own_graph():
    file = File("float32")
    file.tensor("elsewhere", subgraph=1)
    file.layer("one", "int8", "float32", through=["DEQUANTIZE"])
    file.layer("two", "int8", "float32", through=["DEQUANTIZE"], subgraph=1)
    shared = file.tensors()[2].index
    file.op("ADD", [shared, -1], [file.tensor("sum", "float32")])
    note = "integer weights, but computed in float, since no integer operator exists: one (CONV_2D); two (CONV_2D)"
    assert file.verified(DYNAMIC) == [note]


# Layers that were left in float


def test_float_operators_are_noted_with_the_layers_left_in_float():
    file = File()
    file.layer("one", "float32", "float32")
    file.layer("two")
    assert file.verified(INT8, {"one": "a rule", "other": "no form"}) == [
        "float operators in the file: one (CONV_2D); left in float: one (a rule), other (no form)"
    ]
    dynamic = File("float32")
    dynamic.layer("one", "float32", "float32")
    assert dynamic.verified(DYNAMIC, {"one": "a rule"}) == []
    without = File()
    without.layer("two")
    assert without.verified(INT8, {"one": "a rule"}) == []


def test_float_operators_are_those_that_compute():
    file = File()
    middle = file.tensor("middle", "float32")
    file.op("DEQUANTIZE", [0], [middle])
    file.op("QUANTIZE", [middle], [0])
    reads = file.op("ADD", [0, middle], [0])
    gives = file.op("MUL", [0, 0], [middle])
    file.op("SUB", [0, -1], [0])
    file.tensor("elsewhere", "int8", subgraph=1)
    for _ in range(middle):
        file.tensor("elsewhere", "int8", subgraph=1)
    file.op("SUB", [middle], [0], subgraph=1)  # an integer tensor of the same number in another graph
    file.op("DIV", [file.tensor("middle", "int8")], [0])  # an integer tensor of the same name
    file.op("RESHAPE", [file.outputs[0].index], [0])
    assert float_operators(file) == [reads, gives]


@pytest.mark.parametrize(("count", "more"), [(8, ""), (9, " and 1 more"), (17, " and 9 more")])
def test_at_most_eight_operators_are_named(count, more):
    file = File()
    layers = [f"layer{number}" for number in range(count)]
    for name in layers:
        for _ in range(2):  # each is named once
            file.layer(name, "float32", "float32")
    named = "; ".join(f"{name} (CONV_2D)" for name in layers[:8])
    note = f"float operators in the file: {named}{more}; left in float: x (y)"
    assert file.verified(INT8, {"x": "y"}, layers) == [note]


def test_operators_without_names_are_called_by_their_type():
    file = File()
    file.layer("one", "float32", "float32")
    assert file.verified(INT8, {"x": "y"}, ()) == ["float operators in the file: (CONV_2D); left in float: x (y)"]


# Constants that are not finite


def weighing(values, scales=()):
    """A file with one weight of these values and scales, read by two operators."""
    file = File()
    tensor = Tensor(9, "w", np.shape(values), "float32", scales, (0,) * len(scales), None, True, 0)
    ops = (file.layer("one"), file.layer("two"))
    values = np.asarray(values)
    file.weights = lambda: [Weight(tensor, "CONV_2D", values, values.astype("f"), 0, readers=ops)]
    return file


@pytest.mark.parametrize(
    ("values", "scales", "finite"),
    [
        ([1.0, 2.0], (), True),
        ([1.0, np.nan], (), False),
        ([np.inf, 1.0], (), False),
        ([1.0, 2.0], (0.5, 0.25), True),
        ([1, 2], (0.5, np.nan), False),
        ([1, 2], (np.inf, 0.5), False),
    ],
)
def test_constants_are_finite(values, scales, finite):
    file = weighing(np.array(values), scales)
    if finite:
        verify_finite(file, LayerNames(file, ("one", "two")))
        return
    with pytest.raises(ModelError, match=r"NaN or infinity, in one \(CONV_2D\)\. Look"):
        verify_finite(file, LayerNames(file, ("one", "two")))
