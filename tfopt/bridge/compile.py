"""Transfer of compile settings between models of either Keras.

tf_keras runs the Keras 3 losses, metrics and schedules that it lacks (`carried_settings`). For an optimizer that it
lacks it gets another one, and `compile_like` returns a note on that.

All settings are passed by keyword: the third positional argument of `compile` is `metrics` in tf_keras and
`loss_weights` in Keras 3. Not transferred: `jit_compile`, because XLA slows CPU training threefold, and
`steps_per_execution`, which only affects speed and breaks callbacks that must run at every step.
"""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.bridge import carried_settings
from tfopt.bridge.described import config_of
from tfopt.bridge.layers import init_arguments
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.walk import graph_network

_ADVICE = "compile the result yourself, or pass it by the name of a built-in one."
# tf_keras reductions <-> Keras 3 reductions. "auto" means the sum over the batch size in both `fit`s.
_TO_KERAS3 = {"auto": "sum_over_batch_size"}
_TO_TF_KERAS = {"mean": "sum_over_batch_size"}
# Arguments that the other Keras lacks -> values at which dropping them changes nothing; None: any value.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "loss_scale_factor": None,  # gradients are divided by it again
    "gradient_accumulation_steps": (None,),
    "jit_compile": None,
    "is_legacy_optimizer": None,
    "decay": (0.0,),
    "axis": (-1,),  # for SparseCategoricalCrossentropy
    "from_sorted_ids": (False,),  # for SparseTopKCategoricalAccuracy
    "dtype": None,
    "name": None,
}
# Metrics that, in tf_keras, require labels of the same dtype as the metric.
_STRICTER = ("F1Score", "FBetaScore")
_REDUCTIONS = ("sum_over_batch_size", "sum", "none", "auto", None)
_ACCURACY = ("accuracy", "acc", "crossentropy", "ce")  # resolved by `compile` from the output shape


def is_compiled(model: Any) -> bool:
    """Return whether `model`, of either Keras, is compiled."""
    return keras_internals.compiled_before(model)


def compile_like(target: Any, source: Any) -> tuple[str, ...]:
    """Compile `target` with the settings of `source`; each may be of either Keras.

    Transferred are the optimizer (its configuration with the current learning rate or its schedule, not its slot
    variables), loss, loss weights, metrics and weighted metrics without their state, and `run_eagerly`. Python
    functions pass through. Settings keyed by output name are matched by output order. A loss, metric or schedule that
    tf_keras lacks runs as Keras 3.

    Returns:
        A note on each setting that `target` has in another form: the optimizer that stands in for one that tf_keras
        lacks, arguments of an optimizer and metrics that are left out.

    Raises:
        ModelError: `source` is not compiled, or a setting, named in the message, has no equivalent in Keras 3.
    """
    if not is_compiled(source):
        raise ModelError(f"Model '{source.name}' is not compiled: call model.compile(...) first.")
    settings = _settings(source)
    carry = Carrier.between(source, target)
    target.compile(
        optimizer=carry.optimizer(source.optimizer),
        loss=carry.nested("losses", settings.get("loss")),
        loss_weights=carry.renamed(settings.get("loss_weights")),
        metrics=carry.metrics(settings.get("metrics")),
        weighted_metrics=carry.metrics(settings.get("weighted_metrics")),
        run_eagerly=bool(settings.get("run_eagerly")),
    )
    return tuple(carry.notes)


def in_tf_keras(kind: str, setting: Any) -> Any:
    """Return a loss or metric of either Keras as one that tf_keras runs.

    Args:
        kind: "losses" or "metrics".
        setting: an object, a function of tensors, or a name.

    Raises:
        ModelError: neither Keras knows the name.
    """
    return Carrier(to_keras3=False).own(kind, setting)


def compiled_by_output(model: Any, setting: str, names: Sequence[str]) -> dict[str, Any]:
    """Return what `model` was compiled with for each of its outputs; those without are left out.

    Args:
        model: compiled, with several outputs.
        setting: "loss" or "loss_weights".
        names: of the outputs, in the model's order.
    """
    given = _settings(model).get(setting)
    if isinstance(given, list | tuple):
        given = dict(zip(names, given, strict=False))
    elif not isinstance(given, dict):
        given = dict.fromkeys(names, given)
    own = dict(zip(_output_names(model), names, strict=True))  # of layers, where the outputs are a dict
    return {own.get(name, name): value for name, value in given.items() if value is not None}


def compiled_metrics(model: Any, names: Sequence[str], setting: str = "metrics") -> dict[str, list[Any]]:
    """Return the metrics that `model` was compiled with, by output, as they were given; those without are left out.

    Args:
        model: compiled, of either Keras.
        names: of the outputs, in the model's order.
        setting: "metrics" or "weighted_metrics".
    """
    given = _settings(model).get(setting)
    if not given:
        return {}
    if len(names) == 1:
        return {names[0]: _flat(given)}
    if not isinstance(given, list | tuple | dict):  # tf_keras takes one metric for all outputs
        return {name: [given] for name in names}
    if isinstance(given, list | tuple) and not keras_compat.is_keras3_model(model) and _flat(given) == list(given):
        return {name: list(given) for name in names}  # as tf_keras reads a list of metrics
    if isinstance(given, list | tuple):
        return {name: _flat(each) for name, each in zip(names, given, strict=False)}
    own = dict(zip(_output_names(model), names, strict=True))
    return {own.get(str(name), str(name)): _flat(each) for name, each in given.items()}


def _flat(setting: Any) -> list[Any]:
    """Return the metrics in a setting, which may be one, or lists and dicts of them."""
    if isinstance(setting, dict):
        setting = list(setting.values())
    if isinstance(setting, list | tuple):
        return [metric for each in setting for metric in _flat(each)]
    return [] if setting is None else [setting]


def _settings(model: Any) -> dict[str, Any]:
    settings = keras_internals.compile_settings(model)
    return {"loss": model.loss} if settings is None else settings


def _package(thing: Any) -> str:
    """Return "keras" or "tf_keras" for their objects, classes and functions, "" for any other."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    package = str(module).partition(".")[0]
    return package if package in ("keras", "tf_keras") else ""


def _output_names(model: Any) -> list[str]:
    # A Keras 3 Sequential keeps the graph, and with it the names, in another object.
    return list(graph_network(model).output_names)


class Carrier:
    """Finder of the equivalent of each setting in another Keras; `notes` says what it replaced.

    Args:
        to_keras3: the Keras of the result.
        same: whether the settings are of that Keras.
        names: the names of outputs, in the settings and in the result, where they differ.
    """

    def __init__(self, *, to_keras3: bool, same: bool = False, names: dict[str, str] | None = None) -> None:
        self.notes: list[str] = []
        self.to_keras3, self.same, self.names = to_keras3, same, names or {}
        self.carries = not same and not to_keras3
        if to_keras3:
            import keras

            self.package: Any = keras
        else:
            self.package = keras_compat.tf_keras()

    @classmethod
    def between(cls, source: Any, target: Any) -> "Carrier":
        """Return the carrier from the settings of one model to another model."""
        to_keras3 = keras_compat.is_keras3_model(target)
        names = zip(_output_names(source), _output_names(target), strict=True)
        # Keras 3 and tf_keras both use the keys themselves when a model returns a dict.
        structured = isinstance(getattr(source, "output", None), dict)
        same = to_keras3 == keras_compat.is_keras3_model(source)
        return cls(to_keras3=to_keras3, same=same, names={} if structured else dict(names))

    def renamed(self, value: Any) -> Any:
        """Return `value` with the source's output names in keys replaced by the target's."""
        return {self.names.get(k, k): v for k, v in value.items()} if isinstance(value, dict) else value

    def nested(self, kind: str, value: Any) -> Any:
        """Return a loss or metric setting: one, a list, a dict, or lists in these. `kind`: "losses" or "metrics"."""
        if isinstance(value, dict):
            return self.renamed({key: self.nested(kind, item) for key, item in value.items()})
        if isinstance(value, (list, tuple)):
            return [self.nested(kind, item) for item in value]
        if value is None:
            return None
        try:
            return self._equal(kind, value)
        except ModelError:
            if not self.carries:
                raise
        return self._carried(kind, value)

    def metrics(self, value: Any) -> Any:
        """Return the setting of metrics, without those that cannot be copied."""
        return _without_lost(self.nested("metrics", value))

    def optimizer(self, optimizer: Any) -> Any:
        """Return a new optimizer with the configuration of `optimizer`."""
        if optimizer is None:
            raise ModelError(f"The model is compiled without an optimizer; {_ADVICE}")
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # loss scaling only matters in half precision
        if not self.carries:
            return self._by_config("optimizers", optimizer)
        bases = _public_bases(optimizer)
        known = (getattr(self.package.optimizers, base.__name__, None) for base in bases)
        cls = next((found for found in known if found is not None), self.package.optimizers.Adam)
        arguments = self._optimizer_arguments(cls, optimizer)
        if cls.__name__ != type(optimizer).__name__:
            shared = "settings" if cls.__name__ in (base.__name__ for base in bases) else "learning rate"
            self.notes.append(
                f"tf_keras has no optimizer {type(optimizer).__name__}: {cls.__name__} with its {shared} is used "
                "instead; compile the result yourself to use another"
            )
        return cls(**arguments)

    def _optimizer_arguments(self, cls: Any, optimizer: Any) -> dict[str, Any]:
        config = config_of(optimizer)
        if cls.__name__ not in (base.__name__ for base in _public_bases(optimizer)):  # arguments mean other things
            config = {"learning_rate": config["learning_rate"]}
        accepted = init_arguments(cls)
        lost = [key for key in config if key not in accepted and not _is_neutral(key, config[key])]
        for key in lost:
            self.notes.append(f"{cls.__name__} of tf_keras has no {key}={config[key]!r}, which is left out")
        kept = {key: value for key, value in config.items() if key not in lost}
        schedule = carried_settings.schedule_of(optimizer)
        try:
            return self._arguments("optimizers", cls, kept)
        except ModelError:  # a schedule that tf_keras lacks
            kept.pop("learning_rate")
            carried = carried_settings.as_schedule(schedule)
            return {**self._arguments("optimizers", cls, kept), "learning_rate": carried}

    def own(self, kind: str, value: Any) -> Any:
        """Return a setting with its parts of Keras 3 replaced, and all others as they are. `kind` as in `nested`."""
        if isinstance(value, dict):
            return {key: self.own(kind, item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return _without_lost([self.own(kind, item) for item in value])
        if not _is_of_keras3(kind, value):
            return value
        import keras

        try:
            return self._equal(kind, value)
        except ModelError:
            if isinstance(value, keras.metrics.Metric):
                return carried_settings.as_metric(value)  # the caller may read its state
            return self._carried(kind, value)

    def own_optimizer(self, optimizer: Any) -> Any:
        """Return an optimizer of Keras 3 as one of tf_keras, any other as it is."""
        import keras

        if isinstance(optimizer, dict):
            optimizer = keras.optimizers.get(optimizer)
        if not _is_of_keras3("optimizers", optimizer):
            return optimizer

        try:
            return self.optimizer(keras.optimizers.get(optimizer))
        except ValueError as error:
            raise self._missing("optimizers", str(optimizer)) from error

    def _equal(self, kind: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._by_name(kind, value)
        if isinstance(value, type):
            return value() if self.same else self._find(kind, value.__name__)()
        if hasattr(value, "get_config"):
            return self._by_config(kind, value)
        if _package(value) and not self.same:
            return self._by_name(kind, value.__name__)
        if self.carries and kind == "losses" and callable(value):
            return carried_settings.as_loss_function(value)
        return getattr(value, carried_settings.OF_KERAS3, value) if self.to_keras3 else value

    def _carried(self, kind: str, value: Any) -> Any:
        """Return a tf_keras object that runs the Keras 3 setting `value`."""
        import keras

        try:
            found = getattr(keras, kind).get(value)
        except ValueError as error:
            raise self._missing(kind, str(value)) from error
        if isinstance(found, str):
            raise self._missing(kind, found)
        if isinstance(value, str) and isinstance(found, keras.metrics.Metric):  # as in the logs of Keras 3
            found = type(found).from_config({**found.get_config(), "name": value})
        if not hasattr(found, "get_config"):
            return found  # a function of tensors
        if kind == "losses":
            return carried_settings.as_loss(found)
        copied = self._copied_metric(found)
        return _LOST if copied is _LOST else carried_settings.as_metric(copied)

    def _copied_metric(self, metric: Any) -> Any:
        try:
            return type(metric).from_config(metric.get_config())
        except Exception as error:
            self.notes.append(
                f"the metric {type(metric).__name__} is left out: its get_config and from_config do not copy it "
                f"({error})"
            )
            return _LOST

    def _by_name(self, kind: str, name: str) -> Any:
        if not (kind == "metrics" and name in _ACCURACY):
            try:
                found = getattr(self.package, kind).get(name)
            except (ValueError, TypeError) as error:
                raise self._missing(kind, name) from error
            if isinstance(found, str):
                raise self._missing(kind, name)
        return name

    def _by_config(self, kind: str, thing: Any) -> Any:
        if self.same and kind == "metrics":
            return self._copied_metric(thing)
        if self.same:
            # A loss has no state to copy, and Keras 3's Huber omits its delta from get_config.
            return thing if kind == "losses" else type(thing).from_config(thing.get_config())
        cls = self._find(kind, type(thing).__name__) if _package(type(thing)) else None
        if cls is None or "fn" in init_arguments(cls):  # a wrapper of any function
            raise self._missing(kind, type(thing).__name__)
        return cls(**self._arguments(kind, cls, config_of(thing)))

    def _find(self, kind: str, name: str) -> Any:
        cls = getattr(getattr(self.package, kind), name, None)
        if cls is None or (self.carries and name in _STRICTER):
            raise self._missing(kind, name)
        return cls

    def _arguments(self, kind: str, cls: Any, config: dict[str, Any]) -> dict[str, Any]:
        accepted, arguments = init_arguments(cls), {}
        for key, value in config.items():
            if key not in accepted:
                if not _is_neutral(key, value):
                    raise ModelError(
                        f"{cls.__name__}({key}={value!r}) has no equivalent in {self.package.__name__}; {_ADVICE}"
                    )
            elif key in ("reduction", "learning_rate", "name", "jit_compile"):
                arguments.update(self._special(kind, key, value))
            else:
                arguments[key] = value
        return arguments

    def _special(self, kind: str, key: str, value: Any) -> dict[str, Any]:
        if key == "reduction":
            value = (_TO_KERAS3 if self.to_keras3 else _TO_TF_KERAS).get(value, value)
            if value not in _REDUCTIONS:
                raise ModelError(f"The reduction {value!r} has no equivalent in {self.package.__name__}; {_ADVICE}")
        elif key == "learning_rate":
            value = self._learning_rate(value)
        elif key == "jit_compile":
            value = False  # tf_keras compiles its optimizers with XLA by default
        elif kind == "optimizers" or value is None:
            return {}
        return {key: value}

    def _learning_rate(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return float(np.asarray(value))
        schedule = getattr(self.package.optimizers.schedules, value["class_name"], None)
        if schedule is None or value.get("module") != "keras.optimizers.schedules":
            raise self._missing("learning-rate schedules", value["class_name"])
        return schedule(**value["config"])

    def _missing(self, kind: str, name: str) -> ModelError:
        known = [
            each for each in dir(getattr(self.package, kind.replace("learning-rate ", ""), None)) if each[0] != "_"
        ]
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
        nearest = f" (the nearest are {' and '.join(near)})" if near else ""
        return ModelError(f"'{name}' is not among the {kind} of {self.package.__name__}{nearest}; {_ADVICE}")


_LOST = object()  # stands for a metric that cannot be copied


def _is_of_keras3(kind: str, value: Any) -> bool:
    """Return whether a loss, metric or optimizer is of Keras 3, or a name that tf_keras does not know."""
    import keras

    bases = {"losses": keras.losses.Loss, "metrics": keras.metrics.Metric, "optimizers": keras.optimizers.Optimizer}
    if isinstance(value, str):
        if kind == "metrics" and value in _ACCURACY:
            return False
        try:
            found = getattr(keras_compat.tf_keras(), kind).get(value)
        except (ValueError, TypeError):
            return True
        return isinstance(found, str)  # as it comes back for an unknown metric
    if isinstance(value, type):
        return issubclass(value, bases[kind])
    return isinstance(value, bases[kind]) or (inspect.isfunction(value) and _package(value) == "keras")


def _without_lost(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_lost(item) for key, item in value.items() if item is not _LOST}
    if isinstance(value, list):
        return [_without_lost(item) for item in value if item is not _LOST]
    return None if value is _LOST else value


def _is_neutral(key: str, value: Any) -> bool:
    allowed = _NEUTRAL.get(key, ())
    return allowed is None or value in allowed


def _public_bases(optimizer: Any) -> list[type]:
    """Return the class of `optimizer` and those above it, without the base class of all optimizers."""
    return [base for base in type(optimizer).__mro__ if base.__name__ not in ("Optimizer", "object")]
