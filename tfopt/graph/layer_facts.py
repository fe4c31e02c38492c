"""What is known of each layer class."""

from collections.abc import Mapping

# Layers of either Keras that mix channels -> what their config calls the number of their output channels.
WIDTHS = {
    "Dense": "units",
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D"), "filters"),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), "filters"),
    **dict.fromkeys(("LocallyConnected1D", "LocallyConnected2D"), "filters"),
}

# The attributes that hold the large weights, and for each the axis that runs over output channels: a depthwise
# kernel (h, w, channels, multiplier) and a transposed convolution (h, w, out, in) have it last but one. Layers that
# are not named here keep their weights untouched; those with weights of rank 2 or more are reported.
KERNELS: Mapping[str, Mapping[str, int]] = {
    "Dense": {"kernel": -1},
    "EinsumDense": {"kernel": -1},
    "Conv1D": {"kernel": -1},
    "Conv2D": {"kernel": -1},
    "Conv3D": {"kernel": -1},
    "Conv1DTranspose": {"kernel": -2},
    "Conv2DTranspose": {"kernel": -2},
    "Conv3DTranspose": {"kernel": -2},
    "DepthwiseConv1D": {"depthwise_kernel": -2},
    "DepthwiseConv2D": {"depthwise_kernel": -2},
    "SeparableConv1D": {"depthwise_kernel": -2, "pointwise_kernel": -1},
    "SeparableConv2D": {"depthwise_kernel": -2, "pointwise_kernel": -1},
    "LocallyConnected1D": {"kernel": -1},
    "LocallyConnected2D": {"kernel": -1},
    "Embedding": {"embeddings": -1},
    "SimpleRNNCell": {"kernel": -1, "recurrent_kernel": -1},
    "LSTMCell": {"kernel": -1, "recurrent_kernel": -1},
    "GRUCell": {"kernel": -1, "recurrent_kernel": -1},
    "ConvLSTMCell": {"kernel": -1, "recurrent_kernel": -1},
}

# The blocks of output channels that the converter may store as tensors of their own.
GATES = {"LSTMCell": 4, "ConvLSTMCell": 4, "GRUCell": 3}

FOLDS_BATCH_NORM = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense")

# Layers whose output values are input values (or lie between them): an int8 operator of one range.
PASSES = (
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
    "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D", "UpSampling1D",
    "UpSampling2D", "UpSampling3D", "Flatten", "Reshape", "Permute", "RepeatVector", "Resizing", "CenterCrop",
    "Masking",
)  # fmt: skip

# They do nothing in inference.
ABSENT = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout",
    "AlphaDropout", "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation",
    "RandomContrast", "RandomBrightness", "RandomCrop", "RandomHeight", "RandomWidth", "StochasticDepth", "Identity",
)  # fmt: skip

# Layers that look their input up: it must not be rounded.
LOOKUPS = ("Embedding", "StringLookup", "IntegerLookup", "Hashing", "CategoryEncoding", "Discretization")

# Activations whose int8 operator has a range of its own, given by TFLite.
OWN_RANGE = ("softmax", "sigmoid", "tanh")

# Layers that LiteRT has no int8 operator for, or the converter no way to.
NO_INT8_OPERATOR = {
    "Conv3D": "LiteRT has no int8 operator for it",
    "Conv3DTranspose": "LiteRT has no int8 operator for it",
}

# The converter recognises them as a whole only where nothing rounds their output.
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")

# Whose weights may have fewer than 8 bits: those that one operator holds in one tensor.
LOW_BIT = ("Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Dense")
