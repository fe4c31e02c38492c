"""Losses and metrics as plain data in a recipe: names, and registered objects with their settings."""

from collections.abc import Mapping
from typing import Any

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.base.words import reason_of
from tfopt.bridge.described import config_of
from tfopt.errors import ModelError, RecipeError

_CLASS, _MODULE, _CONFIG = "class_name", "module", "config"
"""The keys of an object as data, those of Keras; those of Keras itself have a module, "keras" or "tf_keras"."""


def as_data(setting: Any) -> Any:
    """Return losses or metrics as JSON holds them: a name, a dict of class and config, or dicts and lists of these.

    Raises:
        ValueError: one is an object or a function of the caller that is not registered with Keras.
    """
    if setting is None or isinstance(setting, str):
        return setting
    if isinstance(setting, Mapping):
        return dict(setting) if _CLASS in setting else {str(name): as_data(each) for name, each in setting.items()}
    if isinstance(setting, list | tuple):
        return tuple(as_data(each) for each in setting)
    kind = setting if callable(setting) and hasattr(setting, "__qualname__") else type(setting)
    name = _registered_name(kind)
    if kind is setting:
        return name
    module = {} if ">" in name else {_MODULE: _package(kind)}
    return {_CLASS: name, **module, _CONFIG: _config(setting)}


def _config(setting: Any) -> dict[str, Any]:
    """Return the config of a loss or metric, for a loss without the number by which Keras tells equal ones apart."""
    config = config_of(setting)
    name, _, number = str(config.get("name")).rpartition("_")
    of_class = name.replace("_", "") == type(setting).__name__.lower().replace("_", "")
    if number.isdecimal() and of_class and not hasattr(setting, "update_state"):  # metrics need distinct names
        config["name"] = name
    return config


def is_object(data: Any) -> bool:
    """Return whether a dict describes one object, rather than what belongs to each output."""
    return isinstance(data, Mapping) and _CLASS in data


def _registered_name(kind: Any) -> str:
    """Return the name under which either Keras finds a class or function. Raise ValueError if there is none."""
    import keras

    if _package(kind) in ("keras", "tf_keras"):
        return str(kind.__name__)
    for package in (keras, tf_keras()):
        name = str(package.saving.get_registered_name(kind))
        if package.saving.get_registered_object(name) is kind:
            return name
    raise ValueError(
        f"expected a registered one, so that a recipe.json can name it; put "
        f'@keras.saving.register_keras_serializable("package") above {kind.__name__}'
    )


def _package(kind: Any) -> str:
    return str(kind.__module__).partition(".")[0]


def loss_named(data: Any) -> Any:
    """Return the tf_keras loss that `as_data` describes. Raise `RecipeError` if there is none."""
    return _made("losses", "loss", data)


def metric_named(data: Any) -> Any:
    """Return the tf_keras metric that `as_data` describes. Raise `RecipeError` if there is none."""
    found = _made("metrics", "metric", data)
    metrics = tf_keras().metrics
    if isinstance(found, metrics.Metric):
        return found
    return metrics.MeanMetricWrapper(found, name=str(data).rpartition(">")[2])


def _made(kind: str, what: str, data: Any) -> Any:
    given = data if isinstance(data, Mapping) else {_CLASS: data}
    try:
        found: Any = _found(kind, given[_CLASS], given.get(_MODULE))
        make: Any = found
        if isinstance(found, type):
            found = make.from_config(given[_CONFIG]) if _CONFIG in given else make()
        return bridge.in_tf_keras(kind, found)
    except (ValueError, TypeError, ModelError) as error:
        raise RecipeError(
            f"Unknown {what} {data!r}: {reason_of(error).rstrip('.')}. Give the name of a {what} of Keras, or register "
            "it and import the package that does so first (on the command line, tfopt --import PACKAGE)."
        ) from error


def _found(kind: str, name: str, module: str | None) -> Any:
    """Return the class or function called `name`, or `name` itself for the bridge to look up."""
    import keras

    for package in (keras,) if module == "keras" else (tf_keras(), keras):
        if (registered := package.saving.get_registered_object(name)) is not None:
            return registered
        known = getattr(getattr(package, kind), name, None)
        if isinstance(known, type):
            return known
    try:
        return getattr(tf_keras(), kind).get(name)
    except ValueError:
        return name
