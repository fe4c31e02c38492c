"""Which layers operators belong to, by names that the converter leaves: on a file made up tensor by tensor."""

from types import SimpleNamespace

from tfopt.tflite.read import Op, Tensor
from tfopt.tflite.read.layer_names import LayerNames, layer_pattern, layers_in

NAMES = ["input", "net/stem/Relu", "lost", "lost1", "result", "net/stem/kernel"]
STEM, FIRST, SECOND, LAST = (
    Op(0, "CONV_2D", (0, 5), (1,), 0),
    Op(1, "SOFTMAX", (1,), (2,), 0),
    Op(2, "RESHAPE", (2,), (3,), 0),
    Op(3, "LOGISTIC", (3,), (4,), 0),
)


def names(output="scores"):
    tensors = [
        Tensor(index, name, (1, 4), "float32", (), (), None, index == 5, 0, subgraph=0, sparse=False)
        for index, name in enumerate(NAMES)
    ]
    file = SimpleNamespace(
        tensors=lambda: tensors,
        ops=lambda: [STEM, FIRST, SECOND, LAST],
        outputs=[SimpleNamespace(name=output, index=4)],
    )
    return LayerNames(file, ["stem", "scores"])


def test_the_layer_whose_output_or_weights_an_operator_has():
    assert names().of(STEM) == names().near(STEM) == ["stem"]


def test_an_operator_without_names_belongs_to_the_layers_that_it_reads_from():
    assert names().of(FIRST) == []
    assert names().near(FIRST) == ["stem"]


def test_behind_others_without_names_to_the_nearest_layer_before():
    assert names().near(SECOND) == ["stem"]
    assert names("other").near(LAST) == ["stem"]


def test_what_gives_an_output_belongs_to_the_layer_of_its_name():
    assert names().near(LAST) == ["scores"]


def test_a_fused_lstm_is_the_layer_without_an_operator_between_those_around_it():
    tensors = ["input", "lost", "net/dense/Relu", "lost1", "result"]
    ops = [
        Op(0, "UNIDIRECTIONAL_SEQUENCE_LSTM", (0,), (1,), 0),
        Op(1, "FULLY_CONNECTED", (1,), (2,), 0),
        Op(2, "UNIDIRECTIONAL_SEQUENCE_LSTM", (2,), (3,), 0),
        Op(3, "RESHAPE", (3,), (4,), 0),
    ]
    file = SimpleNamespace(
        tensors=lambda: [
            Tensor(index, name, (1, 4), "float32", (), (), None, False, 0, subgraph=0, sparse=False)
            for index, name in enumerate(tensors)
        ],
        ops=lambda: ops,
        outputs=[SimpleNamespace(name="output_0", index=4)],
    )
    found = LayerNames(file, ["lstm", "dense", "lstm_1"])
    assert [found.near(op) for op in ops] == [["lstm"], ["dense"], ["lstm_1"], ["dense"]]


def test_of_layers_in_one_path_the_outermost_is_meant():
    """What a layer computes inside may bear the name of another layer."""
    layers = {layer: layer_pattern(layer) for layer in ("resize", "resize_1", "conv")}
    assert layers_in("net/resize_1/resize/ResizeBicubic", layers) == ["resize_1"]
    assert layers_in("net/resize/Resize;net/quant_conv/resize_1/Conv2D", layers) == ["resize", "conv"]
    assert layers_in("net/outer/conv/Conv2D", layers) == ["conv"]
