"""Keras 3 <-> tf_keras: equal models of the other kind, never sharing a layer with the caller's."""

from tfopt.bridge.back import to_keras
from tfopt.bridge.build import clone, flat_layers, to_tf_keras
from tfopt.bridge.compile import compile_like, compiled_loss, is_compiled
from tfopt.bridge.origins import origin, remember
from tfopt.bridge.rewrite import fuse_relu

__all__ = [
    "clone",
    "compile_like",
    "compiled_loss",
    "flat_layers",
    "fuse_relu",
    "is_compiled",
    "origin",
    "remember",
    "to_keras",
    "to_tf_keras",
]
