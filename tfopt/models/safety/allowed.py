"""The names a model file may use: classes, functions and TensorFlow symbols that only compute.

The names are listed in `allowed.toml`. Anything else is refused, so an addition to Keras is refused until someone
reviews it. `tests/models/test_harmless_files.py` fails when the installed Keras has a layer that is neither listed
nor refused on purpose.
"""

import re
import tomllib
from importlib import resources

_NAMES = tomllib.loads(resources.files(__package__).joinpath("allowed.toml").read_text(encoding="ascii"))
_NAMESPACES = frozenset(_NAMES["namespaces"].split())
_TENSORFLOW = {namespace: frozenset(names.split()) for namespace, names in _NAMES["tensorflow"].items()}
_READS_FILES = frozenset({"fixed_unigram_candidate_sampler"})  # in namespaces that otherwise only compute
_SPECS = frozenset(_NAMES["tensor_specs"].split())
_ATTRIBUTES = frozenset(_NAMES["tensor_attributes"].split())

LAYERS = frozenset(_NAMES["layers"].split())
REFUSED_LAYERS = frozenset({"FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper"})
"""Layers that carry a program: a SavedModel elsewhere on disk, a pickled torch module, JAX functions, Python code."""

# Allowed if everything they name is allowed: see `config`.
CALLS_TENSORFLOW = frozenset({"ClassMethod", "SlicingOpLambda", "TFOpLambda"})
READS_ATTRIBUTE = frozenset({"InstanceMethod", "InstanceProperty"})
WRAPS_OPERATOR = "TensorFlowOpLayer"
LOOKUPS = frozenset({"IndexLookup", "IntegerLookup", "StringLookup", "TextVectorization"})

CLASSES = frozenset.union(
    CALLS_TENSORFLOW | READS_ATTRIBUTE | LOOKUPS | {WRAPS_OPERATOR},
    *(
        _NAMES[group].split()
        for group in ("layers", "models", "columns", "operations", "training", "settings", "values")
    ),
)
"""Classes that a configuration may instantiate."""

FUNCTIONS = frozenset(_NAMES["functions"].split())
"""Functions that a configuration may pass to a layer, loss or metric."""

OPERATORS = frozenset(_NAMES["graph"]["operators"].split())
"""Operators that a SavedModel graph may contain."""

# The modules of Keras's configurable objects. Loading imports the module, so no others may be named.
_KERAS_MODULES = re.compile(
    r"(tf_)?keras(\.(src|api|engine|legacy|experimental|__internal__))*"
    r"(\.(activations|applications|constraints|dtype_policies|engine|feature_column|initializers|layers|losses|metrics"
    r"|mixed_precision|models|ops|optimizers|premade_models|quantizers|random|regularizers|trainers|utils)"
    r"(\.(?!\w*test)[a-z0-9_]+)*)?"
)
_FUNCTION_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SPEC_MODULES = re.compile(r"tensorflow\.python\.(framework|ops)(\.ragged)?\.[a-z_]+")
_CLASS_METHODS = re.compile(r"((sparse\.)?SparseTensor|RaggedTensor)\.from_[a-z_]+")


def is_keras_module(module: str) -> bool:
    """Return whether a configuration may name `module` as the module of a class or function."""
    return module == "builtins" or _KERAS_MODULES.fullmatch(module) is not None


def is_tensor_spec(name: str, module: str) -> bool:
    """Return whether `name` of `module` is a TensorFlow type specification that a configuration may name."""
    return name in _SPECS and _SPEC_MODULES.fullmatch(module) is not None


def computes(symbol: str) -> bool:
    """Return whether the TensorFlow function `symbol`, without its leading "tf.", only computes."""
    namespace, _, name = symbol.rpartition(".")
    if namespace in _NAMESPACES:
        return _FUNCTION_NAME.fullmatch(name) is not None and name not in _READS_FILES
    if namespace == "keras.activations":
        return name in FUNCTIONS
    return name in _TENSORFLOW.get(namespace, ())


def is_class_method(symbol: str, method: str) -> bool:
    """Return whether a configuration may call the method `method` of the TensorFlow class `symbol`."""
    return _CLASS_METHODS.fullmatch(f"{symbol}.{method}") is not None


def is_tensor_attribute(name: str) -> bool:
    """Return whether a configuration may read the attribute `name` of a tensor, or call it."""
    return name in _ATTRIBUTES
