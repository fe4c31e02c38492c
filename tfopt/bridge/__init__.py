"""Keras 3 <-> tf_keras: equivalent models in the other Keras, sharing no layer with the caller's model."""

from tfopt.base.annotations import origin, remember
from tfopt.bridge.back import require_rebuildable, to_keras
from tfopt.bridge.build import as_flat_model, clone, crossings, flat_layers, register_classes, to_tf_keras
from tfopt.bridge.callbacks import as_tf_keras_callback
from tfopt.bridge.compile import compile_like, compiled_by_output, compiled_metrics, in_tf_keras, is_compiled
from tfopt.bridge.described import described
from tfopt.bridge.fitting import Fitting, accept_keras3, by_valid_names, keeps_best, said_of_own_training
from tfopt.bridge.plans import Crossing, register_twin

__all__ = [
    "Crossing",
    "Fitting",
    "accept_keras3",
    "as_flat_model",
    "as_tf_keras_callback",
    "by_valid_names",
    "clone",
    "compile_like",
    "compiled_by_output",
    "compiled_metrics",
    "crossings",
    "described",
    "flat_layers",
    "in_tf_keras",
    "is_compiled",
    "keeps_best",
    "origin",
    "register_classes",
    "register_twin",
    "remember",
    "require_rebuildable",
    "said_of_own_training",
    "to_keras",
    "to_tf_keras",
]
