"""Keras 3 layers as tf_keras layers: the table of those that both Kerases have, and how configs translate."""

import inspect
from typing import Any

from tfopt.base import keras_compat
from tfopt.bridge import activations, special
from tfopt.bridge.activations import NoTwinError
from tfopt.errors import ModelError
from tfopt.graph.types import Leaf

# Keras 3 layers whose namesake in tf_keras computes the same. Adding one means: name it here, state below
# what its config calls differently, and give it a row in tests/test_bridge_layers.py.
SAME_NAME = (
    "Dense", "EinsumDense", "Embedding", "Identity", "Masking",
    "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
    "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization",
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D",
    "AveragePooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D",
    "UpSampling1D", "UpSampling2D", "UpSampling3D",
    "Flatten", "Reshape", "Permute", "RepeatVector",
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout",
    "AlphaDropout",
    "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax", "ActivityRegularization",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot",
    "SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D",
    "MultiHeadAttention", "Attention", "AdditiveAttention",
    "Rescaling", "Normalization", "Resizing", "CenterCrop", "Discretization", "Hashing", "HashedCrossing",
    "CategoryEncoding", "IntegerLookup", "StringLookup", "TextVectorization",
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness",
)  # fmt: skip

# (class, Keras 3's argument) -> tf_keras's argument.
RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}

# Arguments that tf_keras lacks -> the values at which leaving them out changes nothing. None: any value.
NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "quantization_config": (None,),
    "gptq_unpacked_column_size": (None,),
    "renorm": (False,),
    "renorm_clipping": (None,),
    "renorm_momentum": None,  # read only where renorm is on
    "synchronized": (False,),
    "rms_scaling": (False,),
    "data_format": ("channels_last", None),
    "antialias": (False,),
    "pad_to_aspect_ratio": (False,),
    "fill_mode": ("constant",),  # of Resizing: read only where pad_to_aspect_ratio is on
    "fill_value": None,
    "activity_regularizer": (None,),
    "output_padding": (None,),
    "seed": None,
    "value_range": ((0, 255), [0, 255]),  # of RandomContrast: what tf_keras clips to
    "weights": (None,),
    "use_cudnn": None,
    "zero_output_for_mask": None,  # special.py passes it on: no signature of tf_keras names it
    "flash_attention": (None, False),
    "use_gate": (False,),
    "sliding_window": (None,),
    "vocabulary_size": None,  # follows from the vocabulary
    "vocabulary_dtype": None,
    "oov_method": ("floormod",),
    "salt": (None,),
}
_UNLIKE = ("renorm",)  # taken by both, computed otherwise
_QUANTIZED = ("int8", "int4", "float8", "gptq", "awq")
_HALF = ("float16", "bfloat16")
_TABLES = {"_initializer": "initializers", "_regularizer": "regularizers", "_constraint": "constraints"}


def describe(leaf: Leaf) -> str:
    """For messages: layer 'conv' (Conv2D) at 'outer/inner/conv'."""
    return f"layer '{leaf.layer.name}' ({type(leaf.layer).__name__}) at '{leaf.path}'"


def float_policy(name: str) -> str:
    """`name` of a dtype or dtype policy, float32 where it is of half precision."""
    return "float32" if any(half in name for half in _HALF) else name


def is_half(layer: Any) -> bool:
    """True for a layer that computes in float16 or bfloat16."""
    return getattr(layer, "compute_dtype", None) in _HALF  # an operation has none


def policy_name(layer: Any) -> str:
    """The name of the layer's dtype policy."""
    policy = layer.dtype_policy
    return str(getattr(policy, "name", policy))


def refuse_quantized(layer: Any) -> None:
    """Raises ModelError for a layer that already computes with quantized weights."""
    policy = policy_name(layer)
    if any(word in policy for word in _QUANTIZED):
        raise ModelError(
            f"it is quantized already (dtype policy {policy!r}); start from the float model it was made from"
        )


def own_config(layer: Any) -> dict[str, Any]:
    """The config of a tf_keras layer for a copy of it in float32."""
    if type(layer).__name__ in ("AddLoss", "AddMetric"):
        raise ModelError(
            "a loss or metric that model.add_loss or add_metric put into the graph cannot be carried over; "
            "build the model without it and pass it to compile"
        )
    config = dict(layer.get_config())
    config.pop("batch_input_shape", None)  # the flat model has its own inputs
    if "dtype" in config and float_policy(policy_name(layer)) != policy_name(layer):
        config["dtype"] = float_policy(policy_name(layer))
    return config


def keras3_twin(layer: Any) -> tuple[Any, dict[str, Any]]:
    """The tf_keras class that computes what a Keras 3 `layer` does, and the arguments to make it with.

    Raises NoTwinError where there is none, or none with this layer's arguments.
    """
    if not type(layer).__module__.startswith("keras.src."):
        raise NoTwinError("a custom layer")
    if build := special.BUILDERS.get(type(layer).__name__):
        return build(layer)
    if type(layer).__name__ not in SAME_NAME:
        raise NoTwinError("tf_keras has no such layer")
    cls = getattr(keras_compat.tf_keras().layers, type(layer).__name__)
    return cls, translated(layer, cls)


def made_twin(layer: Any, **changes: Any) -> Any:
    """The tf_keras layer of `keras3_twin`, under the layer's own name; for layers inside of layers."""
    cls, config = keras3_twin(layer)
    return cls(**{**config, "name": layer.name, "trainable": layer.trainable, **changes})


def translated(layer: Any, cls: Any) -> dict[str, Any]:
    """Arguments for `cls` of tf_keras from the config of a Keras 3 `layer`; raises NoTwinError."""
    return _translate(layer, init_arguments(cls))


def _translate(layer: Any, accepted: set[str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, value in layer.get_config().items():
        key = RENAMED.get((type(layer).__name__, key), key)
        if key == "dtype":
            config[key] = float_policy(policy_name(layer))
        elif key not in accepted or key in _UNLIKE:
            _refuse_unless_neutral(key, value)
        elif key in ("activation", "recurrent_activation"):
            config[key] = activations.twin(value)
        elif table := next((table for suffix, table in _TABLES.items() if key.endswith(suffix)), None):
            twin_value = _object(table, value)
            if twin_value is not None:
                config[key] = twin_value
        elif key == "seed":
            config[key] = value if isinstance(value, int) else None
        else:
            config[key] = value
    return config


def _refuse_unless_neutral(key: str, value: Any) -> None:
    allowed = NEUTRAL.get(key, ())
    if allowed is not None and value not in allowed:
        raise NoTwinError(f"tf_keras has no equal for its argument {key}={value!r}")


def _object(table: str, value: Any) -> Any:
    """The tf_keras object for Keras 3's serialized one out of `table`; None for the default."""
    if value is None or isinstance(value, str):
        return value
    cls = getattr(getattr(keras_compat.tf_keras(), table), value["class_name"], None)
    if cls is None or not value["module"].startswith("keras."):
        if table == "initializers":
            return None  # the weights are copied: how they once began does not matter
        raise NoTwinError(f"its {value['class_name']} of {table} has no tf_keras twin")
    accepted = init_arguments(cls)
    config = {key: item for key, item in value["config"].items() if key in accepted}
    if not isinstance(config.get("seed", 0), int):
        config["seed"] = None
    return cls(**config)


def init_arguments(cls: Any) -> set[str]:
    """The arguments that `cls(...)` takes by name, those that its bases take through **kwargs included."""
    names = {"name", "trainable", "dtype"} if hasattr(cls, "add_weight") else set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters) or base.__name__ == "Layer":
            break
    return names - {"self"}


def is_legacy(layer: Any) -> bool:
    """True for a layer of tf_keras."""
    return isinstance(layer, keras_compat.tf_keras().layers.Layer)
