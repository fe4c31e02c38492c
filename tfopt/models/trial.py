"""The sandbox's side of model loading: open a file as the caller will. Runs only in the child process."""

import h5py
import keras
import tensorflow as tf

from tfopt import models
from tfopt.base import keras_compat
from tfopt.models.hub.layer import saved_model_layer

# Memory that the libraries map once is not the file's fault, so map it before the limit is set.
for package in (keras, keras_compat.tf_keras()):
    saved_model_layer(package.__name__)  # registers the class, which files may name
    package.Sequential([package.Input((1,)), package.layers.Dense(1)])


def load(path: str) -> None:
    """Load a model file or folder of either Keras."""
    models.load_model(path)


def load_graph(path: str, tags: list[str] | None) -> None:
    """Load a SavedModel as TensorFlow does."""
    tf.saved_model.load(path, tags=tags)


def read_weights(path: str) -> None:
    """Read the whole content of an HDF5 file."""
    with h5py.File(path, "r") as file:
        file.visititems(_read)


def _read(_: str, item: object) -> None:  # returning a value would stop the visit
    if isinstance(item, h5py.Dataset):
        item[()]
