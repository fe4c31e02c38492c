"""The parts of a file must fit together. The files are made up, each with one part that is out of range."""

from types import SimpleNamespace

import pytest

from tfopt.errors import ModelError
from tfopt.tflite.read import Op, Tensor, check


def model():
    """A `ModelT` of two graphs with two tensors each, one operator code and three buffers."""

    def graph():
        op = SimpleNamespace(opcodeIndex=0, inputs=[0, -1], outputs=[1])
        tensors = [SimpleNamespace(buffer=0), SimpleNamespace(buffer=2)]
        return SimpleNamespace(tensors=tensors, inputs=[0], outputs=[1], operators=[op])

    entry = SimpleNamespace(tensorIndex=1)
    signature = SimpleNamespace(subgraphIndex=1, inputs=[entry], outputs=[SimpleNamespace(tensorIndex=0)])
    return SimpleNamespace(
        operatorCodes=[object()], buffers=[object()] * 3, subgraphs=[graph(), graph()], signatureDefs=[signature]
    )


def test_a_whole_file():
    check.check_indices(model())
    omitted = model()
    omitted.subgraphs[0].operators[0].outputs = [-1, 1]
    check.check_indices(omitted)
    bare = model()
    bare.signatureDefs = bare.subgraphs[1].operators = bare.subgraphs[1].inputs = None  # as flatbuffers says "none"
    check.check_indices(bare)


@pytest.mark.parametrize("graphs", [None, []])
def test_a_file_without_a_graph(graphs):
    empty = model()
    empty.subgraphs, empty.signatureDefs = graphs, None
    with pytest.raises(ValueError, match="it has no graph"):
        check.check_indices(empty)


@pytest.mark.parametrize("graph", [0, 1])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: graph.inputs.append(2), r"index 2 \(input of the graph\) is out of range: there are 2"),
        (lambda graph: graph.inputs.append(-1), r"index -1 \(input of the graph\)"),
        (lambda graph: graph.outputs.append(2), r"index 2 \(output of the graph\)"),
        (lambda graph: graph.outputs.append(-1), r"index -1 \(output of the graph\)"),
        (lambda graph: graph.tensors.append(SimpleNamespace(buffer=3)), r"index 3 \(buffer\).* there are 3"),
        (lambda graph: graph.tensors.append(SimpleNamespace(buffer=-1)), r"index -1 \(buffer\)"),
        (lambda graph: setattr(graph.operators[0], "opcodeIndex", 1), r"1 \(operator code\).* there are 1"),
        (lambda graph: setattr(graph.operators[0], "opcodeIndex", -1), r"-1 \(operator code\)"),
        (lambda graph: graph.operators[0].inputs.append(2), r"index 2 \(operand\)"),
        (lambda graph: graph.operators[0].inputs.append(-2), r"index -2 \(operand\)"),
        (lambda graph: graph.operators[0].outputs.append(2), r"index 2 \(result\)"),
        (lambda graph: graph.operators[0].outputs.append(-2), r"index -2 \(result\)"),
    ],
)
def test_indices_out_of_range(graph, change, words):
    broken = model()
    change(broken.subgraphs[graph])
    with pytest.raises(ValueError, match=words):
        check.check_indices(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: setattr(one, "subgraphIndex", 2), r"index 2 \(graph of a signature\).* there are 2"),
        (lambda one: setattr(one, "subgraphIndex", -1), r"index -1 \(graph of a signature\)"),
        (lambda one: one.inputs.append(SimpleNamespace(tensorIndex=2)), r"index 2 \(tensor of a signature\)"),
        (lambda one: one.outputs.append(SimpleNamespace(tensorIndex=-1)), r"index -1 \(tensor of a signature\)"),
    ],
)
def test_signatures_out_of_range(change, words):
    broken = model()
    change(broken.signatureDefs[0])
    with pytest.raises(ValueError, match=words):
        check.check_indices(broken)


def test_a_signature_counts_the_tensors_of_its_own_graph():
    larger = model()
    larger.subgraphs[0].tensors += [SimpleNamespace(buffer=0)] * 2
    larger.signatureDefs[0].inputs[0].tensorIndex = 3
    with pytest.raises(ValueError, match="there are 2"):
        check.check_indices(larger)
    larger.signatureDefs[0].subgraphIndex = 0
    check.check_indices(larger)


def test_unpacking_follows_results_backwards():
    forwards = [Op(0, "DENSIFY", (0,), (1,)), Op(1, "DEQUANTIZE", (1,), (2,)), Op(2, "ADD", (2, 2), (3,))]
    check.check_order(forwards)
    check.check_order([Op(0, "DEQUANTIZE", (1,), (2,)), Op(1, "ADD", (0, 0), (1,), subgraph=1)])  # of another graph
    check.check_order([Op(0, "DENSIFY", (0, 2), (1,)), Op(1, "ADD", (1, 1), (2,))])  # unpacks its first operand only
    check.check_order([Op(0, "ADD", (2, 2), (1,)), Op(1, "ADD", (1, 1), (2,))])  # nothing follows it


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ([Op(0, "DEQUANTIZE", (0,), (0,))], r"operator 0 \(DEQUANTIZE\)"),  # its own result
        ([Op(0, "DENSIFY", (2,), (1,)), Op(1, "DEQUANTIZE", (1,), (2,))], r"operator 0 \(DENSIFY\)"),
        ([Op(0, "ADD", (0, 0), (1,)), Op(1, "DEQUANTIZE", (), (2,))], r"operator 1 \(DEQUANTIZE\) reads nothing"),
    ],
)
def test_unpacking_of_later_results_would_be_endless(ops, words):
    with pytest.raises(ValueError, match=words):
        check.check_order(ops)


def tensor(shape, dtype="float32", *, constant=False, sparse=False, name="t"):
    return Tensor(0, name, shape, dtype, (), (), None, constant, 0, sparse=sparse)


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        ([tensor((2, 5))], 40),
        ([tensor((2, 5)), tensor((3,), "int8")], 43),
        ([tensor((2, 5)), tensor((1000,), constant=True)], 40),  # in the file already
        ([tensor((2, 5), constant=True, sparse=True)], 40),  # but not its zeros
        ([tensor((-1, 0, 5))], 20),  # a free axis, or an empty one, counts as 1
        ([tensor(())], 4),
        *(([tensor((10,), dtype)], 10) for dtype in ("int4", "uint4", "int2", "int8", "uint8", "bool")),
        *(([tensor((10,), dtype)], 20) for dtype in ("int16", "uint16", "float16", "bfloat16")),
        *(([tensor((10,), dtype)], 40) for dtype in ("int32", "uint32", "float32")),
        *(([tensor((10,), dtype)], 80) for dtype in ("int64", "float64", "complex64", "of the future")),
        ([tensor((10,), "complex128")], 160),
    ],
)
def test_memory_of_tensors(monkeypatch, tensors, size):
    for enough in (size, size + 1):
        monkeypatch.setattr(check, "LARGEST_TENSORS", enough)
        check.check_sizes(tensors)
    monkeypatch.setattr(check, "LARGEST_TENSORS", size - 1)
    with pytest.raises(ModelError, match="over the limit"):
        check.check_sizes(tensors)


def test_the_largest_tensor_is_named(monkeypatch):
    monkeypatch.setattr(check, "LARGEST_TENSORS", 5 * 2**29)
    with pytest.raises(ModelError) as caught:
        check.check_sizes([tensor((2**29,), "int8"), tensor((2**29, 2), name="big"), tensor((2**20,))])
    assert str(caught.value) == (
        "Its tensors need 4.5 GiB of memory, over the limit of 2.5 GiB; the largest, 'big', is float32 of shape "
        "(536870912, 2). Make the inputs smaller."
    )
