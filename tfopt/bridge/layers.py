"""Translation of Keras 3 layer configs to tf_keras."""

import functools
import inspect
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.bridge import activations
from tfopt.bridge.activations import NoTwinError
from tfopt.bridge.policy import float_policy, policy_name
from tfopt.errors import ModelError

# (class, Keras 3 argument) -> tf_keras argument.
RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}

# Arguments that tf_keras lacks -> values at which dropping them changes nothing. None: any value.
NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "quantization_config": (None,),
    "gptq_unpacked_column_size": (None,),
    "renorm": (False,),
    "renorm_clipping": (None,),
    "renorm_momentum": None,  # read only if renorm is on
    "synchronized": (False,),
    "rms_scaling": (False,),
    "data_format": ("channels_last", None),
    "antialias": (False,),
    "pad_to_aspect_ratio": (False,),
    "fill_mode": ("constant",),  # for Resizing: read only if pad_to_aspect_ratio is on
    "fill_value": None,
    "activity_regularizer": (None,),
    "output_padding": (None,),
    "seed": None,
    "value_range": ((0, 255), [0, 255]),  # for RandomContrast: the range that tf_keras clips to
    "weights": (None,),
    "use_cudnn": None,
    "zero_output_for_mask": None,  # twins.py passes it on: no tf_keras signature names it
    "flash_attention": (None, False),
    "use_gate": (False,),
    "sliding_window": (None,),
    "vocabulary_size": None,  # follows from the vocabulary
    "vocabulary_dtype": None,
    "oov_method": ("floormod",),
    "salt": (None,),
}
_UNLIKE = ("renorm",)  # both accept it but compute differently
_QUANTIZED = ("int8", "int4", "float8", "gptq", "awq")
_TABLES = {"_initializer": "initializers", "_regularizer": "regularizers", "_constraint": "constraints"}


def refuse_quantized(layer: Any) -> None:
    """Raise ModelError for a layer that already computes with quantized weights."""
    policy = policy_name(layer)
    if any(word in policy for word in _QUANTIZED):
        raise ModelError(
            f"It is already quantized (dtype policy {policy!r}); start from the float model it was made from."
        )


def own_config(layer: Any) -> dict[str, Any]:
    """Return the config for a float32 copy of a tf_keras layer."""
    if type(layer).__name__ in ("AddLoss", "AddMetric"):
        raise ModelError(
            "A loss or metric added to the graph by model.add_loss or add_metric cannot be carried over; build the "
            "model without it and pass it to compile."
        )
    if size := getattr(layer, "virtual_batch_size", None):
        raise ModelError(
            f"It has virtual_batch_size={size}, which fixes the batches that it can be called on. Build it without, "
            "and give it the same weights (set_weights): in inference it computes the same."
        )
    config = dict(layer.get_config())
    config.pop("batch_input_shape", None)  # the flat model has its own inputs
    if "dtype" in config and float_policy(policy_name(layer)) != policy_name(layer):
        config["dtype"] = float_policy(policy_name(layer))
    return config


def translated(layer: Any, cls: Any) -> dict[str, Any]:
    """Return arguments for `cls` of tf_keras from the config of a Keras 3 `layer`; raise NoTwinError if impossible."""
    return _translate(layer, init_arguments(cls))


def _translate(layer: Any, accepted: frozenset[str]) -> dict[str, Any]:
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
        raise NoTwinError(f"tf_keras has no equivalent for its argument {key}={value!r}")


def _object(table: str, value: Any) -> Any:
    """Return the tf_keras object of a serialized Keras 3 one from the module `table`; None for the default."""
    if value is None or isinstance(value, str):
        return value
    cls = getattr(getattr(keras_compat.tf_keras(), table), value["class_name"], None)
    if cls is None or not value["module"].startswith("keras."):
        if table == "initializers":
            return None  # weights are copied, so their initializer does not matter
        raise NoTwinError(f"its {value['class_name']} of {table} has no tf_keras twin")
    accepted = init_arguments(cls)
    config = {key: _deserialized(item) for key, item in value["config"].items() if key in accepted}
    if not isinstance(config.get("seed", 0), int):
        config["seed"] = None
    return cls(**config)


def _deserialized(value: Any) -> Any:
    """Return the array that Keras 3 has serialized, e.g. of `Constant(array)`; anything else as it is."""
    if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
        return np.asarray(value["config"]["value"], value["config"]["dtype"])
    return value


@functools.lru_cache(maxsize=1024)  # reading a signature takes longer than all else in a plan
def init_arguments(cls: Any) -> frozenset[str]:
    """Return the keyword arguments that `cls(...)` accepts, including those its bases accept through **kwargs."""
    names = {"name", "trainable", "dtype"} if hasattr(cls, "add_weight") else set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters) or base.__name__ == "Layer":
            break
    return frozenset(names - {"self"})
