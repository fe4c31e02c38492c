"""What is known of each layer class: one row for each, and the two functions that find it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal[
    "dense", "convolution", "depthwise", "separable", "transposed", "local", "einsum", "embedding",
    "cell", "recurrent", "time_distributed", "batch_norm", "activation", "average_pooling", "padding", "other",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """What tfopt knows of one layer class of either Keras.

    Attributes:
        family: which layers compute alike.
        kernels: the attributes that hold the large weights in tf_keras, and for each the axis that runs over output
            channels, negative. A class without any keeps its weights untouched; those of rank 2 or more are reported.
        parts: the layers inside, by what the names of their kernels begin with: the attributes that hold them.
        gates: the blocks of output channels that the converter may store as separate tensors; 0 for none.
        width: what the config calls the number of output channels.
        width_is: "outputs", which a classifier may set; "state", of a recurrent layer; "fixed", where one factor does
            not keep what belongs together.
        mixes_channels: False for a layer whose weights connect no channel with another.
        data_format: it takes the argument `data_format`, which says where the channels are.
        scalable: f(x / s) = f(x) / s for any positive s of each channel.
        passes: the output values are input values, or lie between them: an int8 operator of one range.
        absent: it does nothing in inference.
        looks_up: it looks its input up, which must not be rounded.
        joins_ranges: its int8 operator has one range for all inputs and the output.
        no_int8: why there is no int8 operator, or no way to it.
        one_operator: TFLite has an operator for the whole loop over time steps.
        folds_batch_norm: the converter folds a BatchNormalization behind it into its kernel.
        fuses_activation: TFLite fuses a ReLU behind it, besides those of linear layers.
        scales: of the kernel in its int8 operator: "one", one for each output "channel", one for each channel of each
            "gate", as the "equation" says, or a scale for each channel that cannot be given inside a "loop".
        low_bit: its weights may have fewer than 8 bits: one operator holds them in one tensor.
        m_by_n: the m:n masks of TF-MOT run along its inputs.
        clusters_per_channel: TF-MOT clusters each of its channels separately.
        activation: which activation it is, where the class says so.
    """

    family: Family = "other"
    kernels: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    gates: int = 0
    width: str = ""
    width_is: Literal["outputs", "state", "fixed"] = "outputs"
    mixes_channels: bool = True
    data_format: bool = False
    scalable: bool = False
    passes: bool = False
    absent: bool = False
    looks_up: bool = False
    joins_ranges: bool = False
    no_int8: str = ""
    one_operator: bool = False
    folds_batch_norm: bool = False
    fuses_activation: bool = False
    scales: Literal["one", "channel", "gate", "equation", "loop"] = "one"
    low_bit: bool = False
    m_by_n: bool = False
    clusters_per_channel: bool = False
    activation: str = ""

    @property
    def is_patch_product(self) -> bool:
        """Whether an output is a product of one kernel and the inputs around one position, which stays in the file."""
        return self.family in ("dense", "convolution", "depthwise")


_NO_3D = "LiteRT has no int8 operator for it"
_CELL = {"kernel": -1, "recurrent_kernel": -1}
_ATTENTION = {
    "query/": "_query_dense",
    "key/": "_key_dense",
    "value/": "_value_dense",
    "attention_output/": "_output_dense",
}

# A depthwise kernel (h, w, channels, multiplier) and a transposed convolution (h, w, out, in) have the output channels
# on the last axis but one.
# fmt: off
FACTS: Mapping[str, LayerFacts] = {
    "Dense": LayerFacts(family="dense", kernels={"kernel": -1}, width="units", scales="channel",
                        folds_batch_norm=True, low_bit=True, m_by_n=True),
    "EinsumDense": LayerFacts(family="einsum", kernels={"kernel": -1}, width="output_shape", width_is="fixed",
                              scales="equation"),
    "Conv1D": LayerFacts(family="convolution", kernels={"kernel": -1}, width="filters", data_format=True,
                         scales="channel", low_bit=True),
    "Conv2D": LayerFacts(family="convolution", kernels={"kernel": -1}, width="filters", data_format=True,
                         scales="channel", low_bit=True, folds_batch_norm=True, m_by_n=True,
                         clusters_per_channel=True),
    "Conv3D": LayerFacts(family="convolution", kernels={"kernel": -1}, width="filters", data_format=True,
                         no_int8=_NO_3D),
    "Conv1DTranspose": LayerFacts(family="transposed", kernels={"kernel": -2}, width="filters", data_format=True,
                                  scales="channel"),
    "Conv2DTranspose": LayerFacts(family="transposed", kernels={"kernel": -2}, width="filters", data_format=True,
                                  scales="channel"),
    "Conv3DTranspose": LayerFacts(family="transposed", kernels={"kernel": -2}, width="filters", data_format=True,
                                  scales="channel", no_int8=_NO_3D),
    "DepthwiseConv1D": LayerFacts(family="depthwise", kernels={"depthwise_kernel": -2}, mixes_channels=False,
                                  data_format=True, low_bit=True),
    "DepthwiseConv2D": LayerFacts(family="depthwise", kernels={"depthwise_kernel": -2}, mixes_channels=False,
                                  data_format=True, low_bit=True, folds_batch_norm=True),
    "SeparableConv1D": LayerFacts(family="separable", kernels={"depthwise_kernel": -2, "pointwise_kernel": -1},
                                  width="filters", data_format=True, scales="channel", low_bit=True),
    "SeparableConv2D": LayerFacts(family="separable", kernels={"depthwise_kernel": -2, "pointwise_kernel": -1},
                                  width="filters", data_format=True, scales="channel", low_bit=True,
                                  folds_batch_norm=True),
    "LocallyConnected1D": LayerFacts(family="local", kernels={"kernel": -1}, width="filters", data_format=True),
    "LocallyConnected2D": LayerFacts(family="local", kernels={"kernel": -1}, width="filters", data_format=True),
    "Embedding": LayerFacts(family="embedding", kernels={"embeddings": -1}, width="output_dim", width_is="fixed",
                            looks_up=True),

    "SimpleRNNCell": LayerFacts(family="cell", kernels=_CELL, width="units", width_is="state", scales="loop",
                                m_by_n=True),
    "LSTMCell": LayerFacts(family="cell", kernels=_CELL, gates=4, width="units", width_is="state", scales="gate",
                           m_by_n=True),
    "GRUCell": LayerFacts(family="cell", kernels=_CELL, gates=3, width="units", width_is="state", scales="loop",
                          m_by_n=True),
    "ConvLSTMCell": LayerFacts(family="cell", kernels=_CELL, gates=4, data_format=True),
    "RNN": LayerFacts(family="recurrent", parts={"": "cell"}),
    "SimpleRNN": LayerFacts(family="recurrent", parts={"": "cell"}, width="units", width_is="state"),
    "LSTM": LayerFacts(family="recurrent", parts={"": "cell"}, width="units", width_is="state", one_operator=True),
    "GRU": LayerFacts(family="recurrent", parts={"": "cell"}, width="units", width_is="state"),
    "ConvLSTM1D": LayerFacts(family="recurrent", parts={"": "cell"}, width="filters", width_is="state",
                             data_format=True),
    "ConvLSTM2D": LayerFacts(family="recurrent", parts={"": "cell"}, width="filters", width_is="state",
                             data_format=True),
    "ConvLSTM3D": LayerFacts(family="recurrent", parts={"": "cell"}, width="filters", width_is="state",
                             data_format=True),
    "Bidirectional": LayerFacts(family="recurrent",
                                parts={"forward/": "forward_layer", "backward/": "backward_layer"}),
    "TimeDistributed": LayerFacts(family="time_distributed", parts={"": "layer"}),
    "MultiHeadAttention": LayerFacts(parts=_ATTENTION, width="key_dim", width_is="fixed"),
    "GroupedQueryAttention": LayerFacts(width="head_dim", width_is="fixed"),

    "BatchNormalization": LayerFacts(family="batch_norm", mixes_channels=False, fuses_activation=True),
    "LayerNormalization": LayerFacts(mixes_channels=False),
    "GroupNormalization": LayerFacts(mixes_channels=False),
    "RMSNormalization": LayerFacts(mixes_channels=False),
    "UnitNormalization": LayerFacts(mixes_channels=False),
    "Normalization": LayerFacts(mixes_channels=False),
    "LayerScale": LayerFacts(mixes_channels=False),

    "Activation": LayerFacts(family="activation"),
    "ReLU": LayerFacts(family="activation", activation="relu"),
    "Softmax": LayerFacts(family="activation", activation="softmax"),
    "LeakyReLU": LayerFacts(scalable=True),
    "PReLU": LayerFacts(scalable=True, mixes_channels=False),

    "Add": LayerFacts(fuses_activation=True),
    "Subtract": LayerFacts(fuses_activation=True),
    "Multiply": LayerFacts(fuses_activation=True),
    "Concatenate": LayerFacts(joins_ranges=True),

    "MaxPooling1D": LayerFacts(passes=True, data_format=True, scalable=True),
    "MaxPooling2D": LayerFacts(passes=True, data_format=True, scalable=True),
    "MaxPooling3D": LayerFacts(passes=True, data_format=True),
    "GlobalMaxPooling1D": LayerFacts(passes=True, data_format=True, scalable=True),
    "GlobalMaxPooling2D": LayerFacts(passes=True, data_format=True, scalable=True),
    "GlobalMaxPooling3D": LayerFacts(passes=True, data_format=True),
    "AveragePooling1D": LayerFacts(family="average_pooling", data_format=True, scalable=True),
    "AveragePooling2D": LayerFacts(family="average_pooling", data_format=True, scalable=True),
    "AveragePooling3D": LayerFacts(family="average_pooling", data_format=True),
    "GlobalAveragePooling1D": LayerFacts(data_format=True, scalable=True),
    "GlobalAveragePooling2D": LayerFacts(data_format=True, scalable=True),

    "ZeroPadding1D": LayerFacts(family="padding", passes=True, scalable=True),
    "ZeroPadding2D": LayerFacts(family="padding", passes=True, scalable=True, data_format=True),
    "ZeroPadding3D": LayerFacts(family="padding", passes=True, data_format=True),
    "Cropping1D": LayerFacts(passes=True),
    "Cropping2D": LayerFacts(passes=True, data_format=True),
    "Cropping3D": LayerFacts(passes=True, data_format=True),
    "UpSampling1D": LayerFacts(passes=True),
    "UpSampling2D": LayerFacts(passes=True, data_format=True),
    "UpSampling3D": LayerFacts(passes=True, data_format=True),
    "Flatten": LayerFacts(passes=True, data_format=True),
    "Reshape": LayerFacts(passes=True),
    "Permute": LayerFacts(passes=True),
    "RepeatVector": LayerFacts(passes=True),
    "Resizing": LayerFacts(passes=True),
    "CenterCrop": LayerFacts(passes=True),
    "Masking": LayerFacts(passes=True),

    "Dropout": LayerFacts(absent=True, scalable=True),
    "SpatialDropout1D": LayerFacts(absent=True, scalable=True),
    "SpatialDropout2D": LayerFacts(absent=True, scalable=True, data_format=True),
    "SpatialDropout3D": LayerFacts(absent=True, data_format=True),
    "GaussianNoise": LayerFacts(absent=True),
    "GaussianDropout": LayerFacts(absent=True),
    "AlphaDropout": LayerFacts(absent=True),
    "ActivityRegularization": LayerFacts(absent=True),
    "RandomFlip": LayerFacts(absent=True),
    "RandomRotation": LayerFacts(absent=True),
    "RandomZoom": LayerFacts(absent=True),
    "RandomTranslation": LayerFacts(absent=True),
    "RandomContrast": LayerFacts(absent=True),
    "RandomBrightness": LayerFacts(absent=True),
    "RandomCrop": LayerFacts(absent=True),
    "RandomHeight": LayerFacts(absent=True),
    "RandomWidth": LayerFacts(absent=True),
    "StochasticDepth": LayerFacts(absent=True),
    "Identity": LayerFacts(absent=True),

    "StringLookup": LayerFacts(looks_up=True),
    "IntegerLookup": LayerFacts(looks_up=True),
    "Hashing": LayerFacts(looks_up=True),
    "CategoryEncoding": LayerFacts(looks_up=True),
    "Discretization": LayerFacts(looks_up=True),
}
# fmt: on

# Activations whose int8 operator has a range of its own, given by TFLite.
OWN_RANGE = ("softmax", "sigmoid", "tanh")

_UNKNOWN = LayerFacts()


def facts_named(kind: str) -> LayerFacts:
    """Return the row of the layer class called `kind`; the defaults for a class without one."""
    return FACTS.get(kind, _UNKNOWN)


def facts_of(layer: Any) -> LayerFacts:
    """Return the row of the class of `layer`; the defaults for a class without one."""
    return facts_named(type(layer).__name__)


def classes_with(holds: Callable[[LayerFacts], object]) -> list[str]:
    """Return the names of the classes whose row is such that `holds(row)` is true."""
    return [name for name, row in FACTS.items() if holds(row)]
