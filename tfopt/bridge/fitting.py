"""`compile` and `fit` of a tf_keras model with the losses, metrics, optimizers, callbacks and data of either Keras."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tfopt.base import keras_compat
from tfopt.base.annotations import annotate, annotations
from tfopt.base.progress import Progress
from tfopt.bridge.callbacks import as_tf_keras_callback
from tfopt.bridge.compile import Carrier
from tfopt.errors import RecipeError
from tfopt.graph.walk import valid_name

_BY_POSITION = 2  # optimizer and loss; what follows has another order in the other Keras
_OWN_TRAINING = ("fit", "train_step", "test_step", "compute_loss")
_KINDS = {"loss": "losses", "metrics": "metrics", "weighted_metrics": "metrics"}


@dataclass
class Fitting:
    """What a stage asks of the training of its model.

    Attributes:
        callbacks: returns the callbacks that each `fit` needs.
        holds_after: the number of steps after which the promise of the stage holds, so that weights may be kept.
        seen: steps so far.
    """

    callbacks: Callable[[], Iterable[Any]] = list
    holds_after: int = 0
    seen: int = 0


def said_of_own_training(model: Any) -> str:
    """Return a line on the parts of `fit` that the class of `model` defines itself, which tfopt does not run; or ""."""
    kind = type(model)
    own = [name for name in _OWN_TRAINING if name in vars(model) or not _is_of_a_keras(getattr(kind, name, None))]
    if annotations(model).fitting is not None:  # what `apply` returned takes the settings of both Kerases
        own = [name for name in own if name not in vars(model)]
    if not own:
        return ""
    names = " and ".join(f"{kind.__name__}.{name}" for name in own)
    return (
        f"{names} will not run: tfopt trains with the compiled loss, in the usual `fit`. To train in another way, "
        "write a loop with tf.GradientTape"
    )


def _is_of_a_keras(function: Any) -> bool:
    return function is None or str(function.__module__).partition(".")[0] in ("keras", "tf_keras", "tfopt")


def accept_keras3(model: Any, fitting: Fitting | None = None) -> None:
    """Let `compile`, `fit`, `evaluate` and `predict` of a tf_keras `model` take what belongs to Keras 3, in place.

    Args:
        model: a tf_keras model.
        fitting: of the stage; None for that which is known of the model, or none.
    """
    fitting = fitting or annotations(model).fitting or Fitting()
    annotate(model, fitting=fitting)
    kind = type(model)
    model.compile = functools.wraps(kind.compile)(functools.partial(_compile, model))
    model.fit = functools.wraps(kind.fit)(functools.partial(_fit, model, fitting))
    model.train_on_batch = functools.wraps(kind.train_on_batch)(functools.partial(_train_on_batch, model, fitting))
    for name in ("evaluate", "predict"):
        method = getattr(kind, name)
        setattr(model, name, functools.wraps(method)(functools.partial(_run, model, name)))


def _compile(model: Any, *args: Any, **kwargs: Any) -> None:
    if len(args) > _BY_POSITION:
        raise RecipeError(
            "Pass what follows optimizer and loss to compile by name, as in compile(optimizer, loss, metrics=[...]): "
            "Keras 3 and tf_keras have another order."
        )
    arguments = {**dict(zip(("optimizer", "loss"), args, strict=False)), **kwargs}
    carrier = Carrier(to_keras3=False)
    arguments.pop("auto_scale_loss", None)  # of Keras 3 alone
    if arguments.get("jit_compile") == "auto":
        arguments.pop("jit_compile")
    for name, kind in _KINDS.items():
        if name in arguments:
            arguments[name] = carrier.own(kind, arguments[name])
    if "optimizer" in arguments:
        arguments["optimizer"] = carrier.own_optimizer(arguments["optimizer"])
    type(model).compile(model, **arguments)
    for note in carrier.notes:
        warnings.warn(note, stacklevel=3)


def _fit(model: Any, fitting: Fitting, *args: Any, **kwargs: Any) -> Any:
    bound = inspect.signature(keras_compat.tf_keras().Model.fit).bind(model, *args, **kwargs)
    given = bound.arguments
    callbacks = _listed(given.get("callbacks"))
    kinds = tuple(map(type, callbacks))
    # First, so that the others see, and save, what the stage does to the weights.
    callbacks = [*(needed for needed in fitting.callbacks() if type(needed) not in kinds), *callbacks]
    before, start = fitting.seen, _iterations(model)

    def waits() -> bool:
        fitting.seen = before + _iterations(model) - start
        return fitting.seen < fitting.holds_after

    waiting = [callback for callback in callbacks if fitting.holds_after and keeps_best(callback)]
    if waiting and before < fitting.holds_after and given.get("verbose", "auto"):
        names = " and ".join(dict.fromkeys(type(callback).__name__ for callback in waiting))
        begin = "begin" if len({type(callback) for callback in waiting}) > 1 else "begins"
        Progress().say(f"{names} {begin} after {fitting.holds_after:,} steps, when the promise of the stage holds")
    given["callbacks"] = [as_tf_keras_callback(each, waits if each in waiting else None) for each in callbacks]
    given["callbacks"] += _starting_epochs(given.get("x"))
    _take_data(model, given)
    try:
        return type(model).fit(*bound.args, **bound.kwargs)
    finally:
        waits()


def _train_on_batch(model: Any, fitting: Fitting, *args: Any, **kwargs: Any) -> Any:
    """Train on one batch among the events of the stage's callbacks, as in `fit`."""
    callbacks = list(fitting.callbacks())
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_train_batch_begin(0)
    if args:
        args = (by_valid_names(model, args[0]), *args[1:])
    elif "x" in kwargs:
        kwargs["x"] = by_valid_names(model, kwargs["x"])
    result = type(model).train_on_batch(model, *args, **kwargs)
    for callback in callbacks:
        callback.on_train_batch_end(0)
        callback.on_epoch_end(0)
    fitting.seen += 1
    return result


def _run(model: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Run `evaluate` or `predict`."""
    bound = inspect.signature(getattr(keras_compat.tf_keras().Model, name)).bind(model, *args, **kwargs)
    callbacks = bound.arguments.get("callbacks")
    if not isinstance(callbacks, keras_compat.tf_keras().callbacks.CallbackList):  # that of a running `fit`
        bound.arguments["callbacks"] = list(map(as_tf_keras_callback, _listed(callbacks)))
    _take_data(model, bound.arguments)
    return getattr(type(model), name)(*bound.args, **bound.kwargs)


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    inner = getattr(callbacks, "callbacks", callbacks)  # of a CallbackList
    return list(inner) if isinstance(inner, list | tuple) else [inner]


def keeps_best(callback: Any) -> bool:
    """Return whether a callback ends the training by, or keeps the weights of, its best epoch."""
    return hasattr(callback, "restore_best_weights") or bool(getattr(callback, "save_best_only", False))


def _iterations(model: Any) -> int:
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else int(optimizer.iterations.numpy())


def _take_data(model: Any, arguments: dict[str, Any]) -> None:
    """Replace data sets of Keras 3 among the arguments, and names of inputs that TensorFlow does not allow."""
    for name in ("x", "validation_data"):
        if name in arguments:
            arguments[name] = _as_sequence(by_valid_names(model, arguments[name]))


def by_valid_names(model: Any, data: Any) -> Any:
    """Return data with the names of a flat model's inputs: "left eye" is its left_eye, as TensorFlow allows.

    Args:
        model: flat tf_keras.
        data: inputs, a tuple that begins with them, or a data set of these.

    Returns:
        New data, or `data` itself if its names are right, or fit no better so.
    """
    import tensorflow as tf

    if isinstance(data, tuple) and data:
        return (by_valid_names(model, data[0]), *data[1:])
    if isinstance(data, tf.data.Dataset):
        spec = data.element_spec
        several = isinstance(spec, tuple) and len(spec) > 0
        given = spec[0] if several else spec
        if _as_named(model, given) is given:
            return data

        def renamed(*parts: Any) -> Any:
            return by_valid_names(model, parts if several else parts[0])

        return data.map(tf.autograph.experimental.do_not_convert(renamed))
    return _as_named(model, data)


def _as_named(model: Any, data: Any) -> Any:
    """Return a dict with the names of a flat model's inputs; anything else as it is."""
    if not isinstance(data, dict) or isinstance(getattr(model, "input", None), dict):
        return data
    names = {name: valid_name(name) for name in data if isinstance(name, str)}
    fits = set(names.values()) == set(getattr(model, "input_names", None) or ()) != set(names)
    return {names[name]: array for name, array in data.items()} if fits else data


def _starting_epochs(data: Any) -> list[Any]:
    """Return a callback that tells a PyDataset that an epoch begins, which tf_keras does not."""
    import keras

    if not isinstance(data, keras.utils.PyDataset):
        return []
    tell = keras_compat.tf_keras().callbacks.LambdaCallback
    return [tell(on_epoch_begin=lambda epoch, logs: data.on_epoch_begin())]


def _as_sequence(data: Any) -> Any:
    """Return a `keras.utils.PyDataset` as a tf_keras Sequence; anything else as it is."""
    import keras

    if not isinstance(data, keras.utils.PyDataset):
        return data
    if data.num_batches is None:
        raise RecipeError("A PyDataset without an end cannot be fed to a tf_keras model. Give it a num_batches.")
    return _sequence_class()(data)


@functools.cache
def _sequence_class() -> Any:
    base: Any = keras_compat.tf_keras().utils.Sequence

    class Sequence(base):  # type: ignore[misc]
        """The batches of a `keras.utils.PyDataset`."""

        def __init__(self, data: Any) -> None:
            self._data = data

        def __len__(self) -> int:
            return int(self._data.num_batches)

        def __getitem__(self, index: int) -> Any:
            return self._data[index]

        def on_epoch_end(self) -> None:
            self._data.on_epoch_end()

    return Sequence
