"""Scan of a Keras model configuration for anything that would run code, before Keras reads it.

Everything that is not listed in `allowed`, registered, or passed by the caller is reported. The rules follow what the
loaders of Keras 3 and tf_keras do with a name, not what a config claims: Keras looks a class up by its
`registered_name` and a function by its `config`, and tf_keras then imports whatever `module` says.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfopt.base import keras_compat, late_classes
from tfopt.base.limits import DEEPEST_JSON
from tfopt.base.reading import parse_json, reading
from tfopt.errors import ModelError
from tfopt.graph.keras_internals import layer_table
from tfopt.models.safety import allowed

# Keys whose values name functions or objects, in every layer, loss and metric of both Kerases.
_NAMING = ("activation", "initializer", "regularizer", "constraint", "loss", "metric", "fn")

_CLASS_NAME = re.compile(r"(\w+>)?[A-Z]\w*")  # tf_keras may resolve any other name to a function

_PROGRAMS = allowed.REFUSED_LAYERS - {"Lambda"}

Known = Callable[[str], bool]


class Scan:
    """What a configuration names that would run code, as sentences in `found`.

    Attributes:
        found: each finding with its path in the model.
        vouched: names of the caller's classes and functions that the configuration uses.
    """

    def __init__(self, kind: str, custom_objects: Mapping[str, Any], *, revives: bool = False) -> None:
        """Scan for the loader of `kind`, which has `custom_objects`.

        With `revives`, a class that the loader does not find is not reported: tf_keras revives such a layer from the
        graph of its SavedModel.
        """
        self._kind = kind
        self._custom = custom_objects
        self.revives = revives
        self.found: list[str] = []
        self.vouched: dict[str, Any] = {}

    def read(self, part: Any, where: str = "") -> None:
        """Scan `part`, located at the path `where` in the model."""
        for place, what in _findings(part, where, self._known(self._kind), self, 0):
            self.found.append(f"{what} at '{place}'" if place else f"{what} in the model itself")

    def _known(self, kind: str) -> Known:
        """Return a predicate: does the loader of `kind` find a name among the caller's objects?"""
        registered = _registry(kind)

        def known(name: str) -> bool:
            for given in (name, name.rpartition(">")[2]):
                if given in self._custom:
                    self.vouched[name] = self._custom[given]
                    return True
            if (found := registered(name)) is None:
                return False
            # tfopt's own classes exist in every process and need no vouching.
            if not name.startswith("tfopt>"):
                self.vouched[name] = found
            return True

        return known

    def known_to_keras3(self) -> Known:
        """Return the same for Keras 3, whose layers a tf_keras model may carry."""
        return self._known("keras3")


def parsed(text: str | bytes, what: str) -> Any:
    """Return the JSON in `text`. Raise ModelError, naming `what`, if it is invalid or exceeds a limit."""
    with reading(lambda reason: ModelError(f"{what} is damaged: {reason}. Copy or save the file again.")):
        return parse_json(text)


def _registry(kind: str) -> Callable[[str], Any]:
    if kind == "keras3":
        import keras

        api: Any = keras
    else:
        api = keras_compat.tf_keras()
    registered: Callable[[str], Any] = api.saving.get_registered_object

    def found(name: str) -> Any:
        late_classes.ensure(name)
        return registered(name)

    return found


def _findings(part: Any, where: str, known: Known, scan: Scan, depth: int, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and a description of everything in `part`, the value of `key`, that would run code."""
    if depth > DEEPEST_JSON:  # through JSON in strings in JSON
        raise ModelError(f"The configuration nests deeper than the limit of {DEEPEST_JSON} levels. Do not trust it.")
    if isinstance(part, str):
        if nested := _json_in(part):
            yield from _findings(nested, where, known, scan, depth + 1)
    elif isinstance(part, list):
        for value in part:
            yield from _findings(value, where, known, scan, depth + 1, key)
    elif isinstance(part, dict):
        inner = known
        if "class_name" in part:
            where = _place(part, where, depth)
            revived = scan.revives and (depth == 0 or key == "layers") and not _is_found(part["class_name"])
            if not revived and (what := _suspicion(part, known)):
                yield where, what
                return
            if part["class_name"] in ("Carried", "tfopt>Carried"):  # tfopt's layer that runs a layer of Keras 3
                inner = scan.known_to_keras3()
        for name, value in part.items():
            if what := _named(name, value, known):
                yield where, what
            else:
                yield from _findings(value, where, inner if name == "config" else known, scan, depth + 1, name)


def _is_found(cls: Any) -> bool:
    """Return whether tf_keras resolves the name `cls` to a class or function when it loads a SavedModel."""
    if not isinstance(cls, str) or not _CLASS_NAME.fullmatch(cls) or cls in allowed.CLASSES:
        return True
    return cls in layer_table() or keras_compat.tf_keras().saving.get_registered_object(cls) is not None


def _place(part: dict[str, Any], where: str, depth: int) -> str:
    config = part.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str) or depth == 0:
        return where
    return f"{where}/{name}" if where else name


def _json_in(text: str) -> Any:
    """Return the objects in a string that holds JSON; None for any other string."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        json.loads(text)
    except ValueError:
        return None
    except RecursionError:
        pass
    return parsed(text, "A text in the configuration")


def _named(key: str, value: Any, known: Known) -> str:
    """Describe a string that names a function or class that is neither Keras's nor the caller's."""
    if not isinstance(value, str) or key.rpartition("_")[2] not in _NAMING:
        return ""
    short = value.rpartition(">")[2]
    if short in allowed.FUNCTIONS or short in allowed.CLASSES or known(value):
        return ""
    return f"the custom function '{value}'"


def _suspicion(part: dict[str, Any], known: Known) -> str:
    """Describe what is wrong with a serialized object; return "" if nothing is."""
    cls, config, module = part["class_name"], part.get("config"), part.get("module")
    registered = part.get("registered_name")
    if not isinstance(cls, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        return "an object whose class is not a name"
    if cls == "__lambda__":
        return "pickled Python code"
    if cls == "function":
        return _function_suspicion(config, module, registered, known)
    if cls == "__typespec__":
        ok = registered is None and allowed.is_tensor_spec(str(part.get("spec_name")), str(module))
        return "" if ok else f"the custom type '{part.get('spec_name')}'"
    # Old formats use the class, new ones its registered name, even if null: whichever is read must be harmless.
    looked_up = part.get("registered_name", cls)
    vouched = looked_up is not None and known(looked_up)
    same = registered is None or registered.rpartition(">")[2] == cls
    if cls in _PROGRAMS:
        return f"a {cls}, which runs a program from the file"
    if cls not in allowed.CLASSES and cls != "Lambda":
        return "" if vouched and (same or known(cls)) else _outside_keras(registered or cls, config)
    if registered not in (None, cls) and not (vouched and same):
        return f"the custom class '{registered}'"
    if not vouched and module is not None and not allowed.is_keras_module(module):
        return f"the custom class '{cls}' of the module '{module}'"
    return _setting_suspicion(cls, config if isinstance(config, dict) else {}, known)


def _outside_keras(cls: str, config: Any) -> str:
    if cls == "KerasLayer" and isinstance(config, dict) and isinstance(config.get("handle"), str):
        return f"the TF-Hub module {config['handle']!r} in a hub.KerasLayer, which is outside of the file,"
    return f"the custom class '{cls}'"


def _function_suspicion(name: Any, module: str | None, registered: str | None, known: Known) -> str:
    if isinstance(name, str) and known(name):
        return ""
    builtin = module is not None and allowed.is_keras_module(module) and registered in (None, "function", name)
    return "" if builtin and name in allowed.FUNCTIONS else f"the custom function '{name}'"


def _setting_suspicion(cls: str, config: dict[str, Any], known: Known) -> str:
    """Describe a setting that would make an allowed class call or read something forbidden."""
    if cls == "Lambda":
        return "a Lambda layer with Python code" if _holds_code(config, known) else ""
    if cls in allowed.CALLS_TENSORFLOW:
        return _call_suspicion(cls, config)
    if cls in allowed.READS_ATTRIBUTE:
        name = str(config.get("attr_name"))
        return "" if allowed.is_tensor_attribute(name) else f"a use of the attribute '{name}'"
    if cls == allowed.WRAPS_OPERATOR:
        operator = _operator(config.get("node_def"))
        return "" if operator in allowed.OPERATORS else f"the operator '{operator}'"
    if cls in allowed.LOOKUPS:
        read = [key for key in ("vocabulary", "idf_weights") if isinstance(config.get(key), str)]
        return f"a {cls} that reads its {read[0]} from the file '{config[read[0]]}'" if read else ""
    return ""


def _call_suspicion(cls: str, config: dict[str, Any]) -> str:
    if cls == "ClassMethod":
        symbol, method = str(config.get("cls_symbol")), str(config.get("method_name"))
        return "" if allowed.is_class_method(symbol, method) else f"a call of tf.{symbol}.{method}"
    function = str(config.get("function"))
    return "" if allowed.computes(function) else f"a call of tf.{function}"


def _operator(node: Any) -> str:
    """Return the operator of a serialized NodeDef: a dict, or a JSON text."""
    if isinstance(node, str):
        try:
            node = json.loads(node)
        except (ValueError, RecursionError):
            return str(node)[:40]
    return str(node.get("op")) if isinstance(node, dict) else str(node)[:40]


def _holds_code(config: dict[str, Any], known: Known) -> bool:
    """Return whether a Lambda contains code, or a function found only through its module."""
    if "function" not in config:
        return True
    return any(
        _is_code(config.get(name), config.get(f"{name}_type"), known) for name in ("function", "output_shape", "mask")
    )


def _is_code(value: Any, kind: Any, known: Known) -> bool:
    if kind == "lambda":
        return True
    if isinstance(value, dict):  # a serialized object, checked separately
        return value.get("class_name") != "function"
    if isinstance(value, str):
        return not known(value)
    return kind == "function" or any(isinstance(item, str) for item in value or [])
