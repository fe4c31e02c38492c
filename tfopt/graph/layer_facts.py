"""Facts about each layer class, one row per class, and functions to look them up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal[
    "dense", "convolution", "depthwise", "separable", "transposed", "local", "einsum", "embedding",
    "cell", "recurrent", "time_distributed", "batch_norm", "activation", "average_pooling", "padding", "other",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """Facts about one layer class of either Keras.

    Attributes:
        family: the group of layers that compute alike.
        kernels: the attributes that hold the large weights in tf_keras, each with its output channel axis (negative).
            A class without any keeps its weights untouched; those of rank 2 or more are reported.
        parts: the layers inside: prefix of their kernel names -> the attribute that holds the layer.
        gates: the blocks of output channels that the converter may store as separate tensors; 0 for none.
        width: the config key for the number of output channels.
        width_is: "outputs", which a classifier may set; "state", for a recurrent layer; "fixed", if a single factor
            cannot scale the width consistently.
        mixes_channels: False for a layer whose weights do not connect channels.
        data_format: whether it takes the argument `data_format`, the position of the channel axis.
        scalable: whether f(x / s) = f(x) / s for any positive per-channel s.
        passes: whether output values are input values or lie between them: an int8 operator with one range.
        absent: whether it is a no-op in inference.
        looks_up: whether it looks its input up in a table, so the input must not be rounded.
        takes_indices: whether what it looks up are whole numbers.
        joins_ranges: whether its int8 operator has one range for all inputs and the output.
        no_int8: why it has no int8 operator or cannot be converted to one.
        one_operator: whether TFLite has an operator for the whole loop over time steps.
        folds_batch_norm: whether the converter folds a following BatchNormalization into its kernel.
        fuses_activation: whether TFLite fuses a following ReLU, in addition to those of linear layers.
        scales: the kernel scales of its int8 operator: "one"; one per output "channel"; one per channel of each
            "gate"; as the "equation" says; or one per channel that cannot be set inside a "loop".
        low_bit: whether its weights may have fewer than 8 bits: one operator holds them in one tensor.
        m_by_n: whether TF-MOT's m:n masks run along its inputs.
        clusters_per_channel: whether TF-MOT clusters each of its channels separately.
        activation: the activation, if the class implies one.
        channels: what becomes of the channels of its input, see `tfopt.surgery.channels.rules`; "" if the family says
            it, or nobody knows.
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
    takes_indices: bool = True
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
    channels: str = ""

    @property
    def is_patch_product(self) -> bool:
        """Whether an output is a product of one kernel and the inputs around one position, kept as such in the file."""
        return self.family in ("dense", "convolution", "depthwise")


_NO_3D = "LiteRT has no int8 operator for it"
_CELL = {"kernel": -1, "recurrent_kernel": -1}
_ATTENTION = {
    "query/": "_query_dense",
    "key/": "_key_dense",
    "value/": "_value_dense",
    "attention_output/": "_output_dense",
}

# In a depthwise kernel (h, w, channels, multiplier) and a transposed convolution (h, w, out, in) the output channels
# are on the second-to-last axis.
# fmt: off
FACTS: Mapping[str, LayerFacts] = {
    "Dense": LayerFacts(family="dense", kernels={"kernel": -1}, width="units", scales="channel",
                        folds_batch_norm=True, low_bit=True, m_by_n=True),
    "EinsumDense": LayerFacts(family="einsum", kernels={"kernel": -1}, width="output_shape", width_is="fixed",
                              scales="equation"),
    "Conv1D": LayerFacts(family="convolution", kernels={"kernel": -1}, width="filters", data_format=True,
                         scales="channel", low_bit=True, folds_batch_norm=True),
    "Conv2D": LayerFacts(family="convolution", kernels={"kernel": -1}, width="filters", data_format=True,
                         scales="channel", low_bit=True, folds_batch_norm=True, m_by_n=True,
                         clusters_per_channel=True),
    "Conv3D": LayerFacts(family="convolution", kernels={"kernel": -1}, width="filters", data_format=True,
                         no_int8=_NO_3D),
    "Conv1DTranspose": LayerFacts(family="transposed", kernels={"kernel": -2}, width="filters", data_format=True,
                                  scales="channel", folds_batch_norm=True),
    "Conv2DTranspose": LayerFacts(family="transposed", kernels={"kernel": -2}, width="filters", data_format=True,
                                  scales="channel", folds_batch_norm=True),
    "Conv3DTranspose": LayerFacts(family="transposed", kernels={"kernel": -2}, width="filters", data_format=True,
                                  scales="channel", no_int8=_NO_3D),
    "DepthwiseConv1D": LayerFacts(family="depthwise", kernels={"depthwise_kernel": -2}, mixes_channels=False,
                                  data_format=True, low_bit=True, folds_batch_norm=True),
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
    "ConvLSTMCell": LayerFacts(family="cell", kernels=_CELL, scales="loop", gates=4, data_format=True),
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
    "Attention": LayerFacts(channels="dot"),
    "MultiHeadAttention": LayerFacts(channels="attention", parts=_ATTENTION, width="key_dim", width_is="fixed"),
    "GroupedQueryAttention": LayerFacts(width="head_dim", width_is="fixed"),

    "BatchNormalization": LayerFacts(family="batch_norm", mixes_channels=False, fuses_activation=True),
    "LayerNormalization": LayerFacts(channels="norm", mixes_channels=False),
    "GroupNormalization": LayerFacts(channels="groups", mixes_channels=False),
    "RMSNormalization": LayerFacts(channels="norm", mixes_channels=False),
    "UnitNormalization": LayerFacts(channels="length", mixes_channels=False),
    "Normalization": LayerFacts(mixes_channels=False),
    "Rescaling": LayerFacts(channels="numbers"),
    "LayerScale": LayerFacts(channels="weighted", mixes_channels=False),

    "Activation": LayerFacts(channels="alone", family="activation"),
    "ReLU": LayerFacts(channels="alone", family="activation", activation="relu"),
    "Softmax": LayerFacts(channels="softmax", family="activation", activation="softmax"),
    "ELU": LayerFacts(channels="alone"),
    "LeakyReLU": LayerFacts(channels="alone", scalable=True),
    "PReLU": LayerFacts(channels="weighted", scalable=True, mixes_channels=False),

    "Add": LayerFacts(channels="merge", fuses_activation=True),
    "Subtract": LayerFacts(channels="merge", fuses_activation=True),
    "Multiply": LayerFacts(channels="merge", fuses_activation=True),
    "Average": LayerFacts(channels="merge"),
    "Maximum": LayerFacts(channels="merge"),
    "Minimum": LayerFacts(channels="merge"),
    "Concatenate": LayerFacts(channels="join", joins_ranges=True),

    "MaxPooling1D": LayerFacts(channels="places", passes=True, data_format=True, scalable=True),
    "MaxPooling2D": LayerFacts(channels="places", passes=True, data_format=True, scalable=True),
    "MaxPooling3D": LayerFacts(channels="places", passes=True, data_format=True),
    "GlobalMaxPooling1D": LayerFacts(channels="places", passes=True, data_format=True, scalable=True),
    "GlobalMaxPooling2D": LayerFacts(channels="places", passes=True, data_format=True, scalable=True),
    "GlobalMaxPooling3D": LayerFacts(channels="places", passes=True, data_format=True),
    "AveragePooling1D": LayerFacts(channels="places", family="average_pooling", data_format=True, scalable=True),
    "AveragePooling2D": LayerFacts(channels="places", family="average_pooling", data_format=True, scalable=True),
    "AveragePooling3D": LayerFacts(channels="places", family="average_pooling", data_format=True),
    "GlobalAveragePooling1D": LayerFacts(channels="places", data_format=True, scalable=True),
    "GlobalAveragePooling2D": LayerFacts(channels="places", data_format=True, scalable=True),
    "GlobalAveragePooling3D": LayerFacts(channels="places", data_format=True),

    "ZeroPadding1D": LayerFacts(channels="places", family="padding", passes=True, scalable=True),
    "ZeroPadding2D": LayerFacts(channels="places", family="padding", passes=True, scalable=True, data_format=True),
    "ZeroPadding3D": LayerFacts(channels="places", family="padding", passes=True, data_format=True),
    "Cropping1D": LayerFacts(channels="places", passes=True),
    "Cropping2D": LayerFacts(channels="places", passes=True, data_format=True),
    "Cropping3D": LayerFacts(channels="places", passes=True, data_format=True),
    "UpSampling1D": LayerFacts(channels="places", passes=True),
    "UpSampling2D": LayerFacts(channels="places", passes=True, data_format=True),
    "UpSampling3D": LayerFacts(channels="places", passes=True, data_format=True),
    "Flatten": LayerFacts(channels="order", passes=True, data_format=True),
    "Reshape": LayerFacts(channels="order", passes=True),
    "Permute": LayerFacts(channels="permute", passes=True),
    "RepeatVector": LayerFacts(channels="repeat", passes=True),
    "Resizing": LayerFacts(channels="places", passes=True),
    "CenterCrop": LayerFacts(channels="places", passes=True),
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
    "Discretization": LayerFacts(looks_up=True, takes_indices=False),
}
# fmt: on

# Activations whose int8 operator has a fixed range, defined by TFLite.
OWN_RANGE = ("softmax", "sigmoid", "tanh")

_UNKNOWN = LayerFacts()


def facts_named(kind: str) -> LayerFacts:
    """Return the row of the layer class called `kind`; the defaults for a class without one."""
    return FACTS.get(kind, _UNKNOWN)


def facts_of(layer: Any) -> LayerFacts:
    """Return the row of the class of `layer`; the defaults for a class without one."""
    return facts_named(type(layer).__name__)


def classes_with(holds: Callable[[LayerFacts], object]) -> list[str]:
    """Return the names of the classes with a true `holds(row)`."""
    return [name for name, row in FACTS.items() if holds(row)]
