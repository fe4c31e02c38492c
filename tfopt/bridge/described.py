"""Losses and metrics as plain data, which differ where they compute something else."""

import functools
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfopt.graph import keras_internals

_KERAS = ("keras", "tf_keras")


def described(setting: Any) -> Any:
    """Return plain data that tell losses or metrics, or dicts and lists of these, from others that compute otherwise.

    Functions of libraries are names, arrays digests, objects their class with what they hold, and functions of the
    caller a name with a digest of their code and of the values that they enclose. What code calls or reads elsewhere is
    not seen.
    """
    return _described(setting, ())


def _described(setting: Any, within: tuple[int, ...]) -> Any:
    """Return `described` of a part that lies in the objects with the ids `within`, outermost first."""
    if setting is None or isinstance(setting, str | bool | int | float):
        return setting
    if isinstance(setting, bytes | complex | range):
        return repr(setting)
    if isinstance(setting, type):
        return _name(setting)
    if isinstance(setting, types.BuiltinFunctionType | np.ufunc):
        return {"function": f"{getattr(setting, '__module__', None)}.{setting.__name__}"}
    if (array := _as_array(setting)) is not None:
        if array.dtype.hasobject:
            return [str(array.shape), *(_described(each, within) for each in array.ravel())]
        return _digest(f"{array.dtype} {array.shape}".encode(), array.tobytes())
    if id(setting) in within:
        return {"within": within.index(id(setting))}
    return _of_parts(setting, lambda part: _described(part, (*within, id(setting))))


def _as_array(setting: Any) -> np.ndarray | None:
    """Return the values of an array, a tensor or a variable; None of anything else."""
    if isinstance(setting, np.ndarray | np.generic):
        return np.asarray(setting)
    try:
        return np.asarray(setting.numpy())
    except Exception:  # there is no such method, or a tensor of a graph has no values
        return None


def _of_parts(setting: Any, describe: Callable[[Any], Any]) -> Any:
    """Return `described` of an object, given the function `describe` for its parts."""
    if isinstance(setting, Mapping):
        return {str(name): describe(each) for name, each in setting.items()}
    if isinstance(setting, list | tuple):
        return [describe(each) for each in setting]
    if isinstance(setting, set | frozenset):
        return {"set": sorted(json.dumps(describe(each), sort_keys=True) for each in setting)}
    if isinstance(setting, types.MethodType):
        return {**_function(setting.__func__, describe), "of": describe(setting.__self__)}
    if isinstance(setting, functools.partial):
        return {"partial": describe(setting.func), "arguments": describe([*setting.args, setting.keywords])}
    if (traced := getattr(setting, "python_function", None)) is not None:  # a tf.function
        return describe(traced)
    return _function(setting, describe) if isinstance(setting, types.FunctionType) else _object(setting, describe)


def config_of(thing: Any) -> dict[str, Any]:
    """Return the complete config of an optimizer, loss or metric."""
    config = {**keras_internals.loss_arguments(thing), **thing.get_config()}
    config.pop("fn", None)  # implied by the class
    return config


def _object(thing: Any, describe: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what a loss or metric computes; of any other object only its class and weights."""
    found: dict[str, Any] = {"class": _name(type(thing))}
    if hasattr(thing, "get_weights"):
        return {**found, "weights": describe(thing.get_weights())}
    methods = (getattr(type(thing), name, None) for name in ("call", "__call__"))
    compute = next((each for each in methods if isinstance(each, types.FunctionType)), None)
    if compute is None:
        return found
    held = {name: each for name, each in getattr(thing, "__dict__", {}).items() if name[0] != "_"}
    return {**found, "config": _unnamed(describe({**held, **_config(thing)})), "call": _function(compute, describe)}


def _config(thing: Any) -> dict[str, Any]:
    try:
        return config_of(thing)
    except Exception:  # there is none, or it is of the caller's class
        return {}


def _function(function: Any, describe: Callable[[Any], Any]) -> Any:
    name = _name(function)
    if name.partition(".")[0] in _KERAS:
        return {"function": name}
    cells = [_content(cell) for cell in function.__closure__ or ()]
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells]
    return {"function": name, "code": _code(function.__code__), "values": describe(values)}


def _content(cell: Any) -> Any:
    """Return what a cell of a closure holds; None if that is not defined yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _code(code: types.CodeType) -> str:
    """Return the digest of compiled code, wherever its lines stand in the file."""

    def constant(value: Any) -> str:
        if isinstance(value, types.CodeType):
            return _code(value)
        return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)

    constants = [constant(each) for each in code.co_consts]
    return _digest(code.co_code, repr((code.co_names, constants)).encode())


def _unnamed(config: Any) -> Any:
    """Return a config without names, which Keras numbers."""
    if isinstance(config, dict):
        return {key: _unnamed(each) for key, each in config.items() if key != "name"}
    return [_unnamed(each) for each in config] if isinstance(config, list) else config


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
