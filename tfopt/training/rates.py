"""Learning rates per layer that decrease with the distance from the output (discriminative fine-tuning)."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.base.annotations import annotations
from tfopt.base.decorators import not_converted
from tfopt.errors import RecipeError
from tfopt.graph import keras_internals
from tfopt.graph.types import Graph, Leaf, Ref, is_layer, refs_in
from tfopt.graph.value_heads import has_kernel, value_heads
from tfopt.graph.walk import walk

# Optimizers of tf_keras whose steps do not depend on the scale of gradients.
ADAPTIVE = ("Adam", "Adamax", "Nadam", "RMSprop", "Lion")  # AdamW's weight decay would be scaled as well


def layer_rates(optimizer: Any, model: Any, *, decay: float) -> Any:
    """Return a new optimizer like `optimizer` that trains each layer of `model` at its rate times `decay ** distance`.

    Discriminative fine-tuning (Howard & Ruder 2018, arXiv:1801.06146, section 3.2, with decay = 1 / 2.6; Bao et al.
    2021, arXiv:2106.08254, with 0.65 to 0.9 per block). The distance of a layer is the maximum number of layers with a
    kernel on a path from it to the output: 0 for the last one, 1 for the one before; a BatchNorm has that of the layer
    before it. Each variable is updated exactly as by `optimizer` at that learning rate, including weight decay; so it
    also works with Adam, which is invariant to gradient scale. Schedules, clipping, averaging and callbacks that set
    the learning rate work as usual: `learning_rate` is that of the last layer.

    A saved model contains the plain optimizer with its state and loads without tfopt; compile again with `layer_rates`
    to continue training.

    Args:
        optimizer: a name, or an optimizer of the Keras of `model`, also in a LossScaleOptimizer. It is not changed, and
            its state is not copied.
        model: the Keras 3 or tf_keras model to compile with the result and train.
        decay: above 0, at most 1.

    Returns:
        The optimizer.

    Raises:
        RecipeError: a decay out of range, or an unknown or unsuitable optimizer; in `fit`, another model than `model`.
        ModelError: a model whose graph cannot be read.

    Examples:
        >>> optimizer = tfopt.training.layer_rates(keras.optimizers.Adam(1e-3), model, decay=0.5)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> history = model.fit(x, y, verbose=0)  # "head" at 1e-3, "second" at half of it, "first" at a quarter
    """
    if not 0 < decay <= 1:
        raise RecipeError(f"Expected a decay above 0 and at most 1; got {decay}.")
    package = keras_compat.keras_of(model)
    try:
        optimizer = package.optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    except ValueError as error:
        raise RecipeError(f"Unknown optimizer {optimizer!r}. Give the name of one of {package.__name__}.") from error
    inside = getattr(optimizer, "inner_optimizer", None)
    if inside is not None:  # loss scaling wraps it
        config = optimizer.get_config()
        del config["inner_optimizer"]
        return type(optimizer)(layer_rates(inside, model, decay=decay), **config)
    if not isinstance(optimizer, package.optimizers.Optimizer):
        raise RecipeError(
            f"layer_rates expects an optimizer of {package.__name__}, like '{model.name}'; got "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    return _with_factors(optimizer, rate_factors(model, decay), model.name)


def rate_factors(model: Any, decay: float) -> list[tuple[Leaf, float]]:
    """Return the layers of `model` in calling order, each with the factor of its learning rate."""
    graph = walk(model, keep_names=True)
    far = _distances(graph)
    return [(leaf, decay ** far[id(leaf)]) for leaf in graph.leaves if is_layer(leaf.layer)]


def as_remembered(optimizer: Any, model: Any) -> Any:
    """Return `optimizer`, or `layer_rates` of it if a decay is recorded for `model`."""
    decay = annotations(model).layer_decay
    return optimizer if decay == 1 else layer_rates(optimizer, model, decay=decay)


def for_target_scale(optimizer: Any, model: Any, *deviations: float | None) -> Any:
    """Return `optimizer` with the rate of each last layer times the standard deviation of its targets.

    With Adam and its relatives, which are invariant to the scale of gradients, this is training on normalized targets:
    if k' = k / deviation outputs normalized values, a step of one rate in k' is one of `deviation` times that in k. The
    rate of others, e.g. SGD, already depends on that scale. Layer rates stay. Gradients of a squared error are
    `deviation ** 2` times those of normalized targets, so `epsilon` must not be larger than that; with several outputs,
    whose losses are divided by the variance, those of large values are small.

    Args:
        optimizer: of tf_keras, new.
        model: flat, perhaps with a stage's wrappers; see `layer_rates`.
        *deviations: above 0, one for each output; None for outputs that are no values.

    Returns:
        The optimizer; unchanged if no output of values comes from one layer with a kernel and without an activation
        that bends values above 0.
    """
    package = keras_compat.keras_of(model)
    adaptive = tuple(getattr(package.optimizers, name) for name in ADAPTIVE)
    if not isinstance(optimizer, adaptive):
        return optimizer
    heads = value_heads(walk(model, keep_names=True))
    own = {  # by layer: what one step of it changes in the values
        id(head.leaf.layer): deviation / float(np.exp(np.log(np.abs(head.factor)).mean()))
        for head, deviation in zip(heads, deviations, strict=True)
        if head and deviation
    }
    if not own:
        return optimizer
    rates = rate_factors(model, annotations(model).layer_decay)
    rated = _with_factors(optimizer, [(leaf, f * own.get(id(leaf.layer), 1.0)) for leaf, f in rates], model.name)
    if hasattr(rated, "epsilon"):
        under_the_root = isinstance(optimizer, package.optimizers.RMSprop)  # where gradients are squared
        sizes = [deviation for deviation in deviations if deviation]
        smallest = min(size**2 for size in sizes) if len(deviations) == 1 else min(1 / size for size in sizes)
        rated.epsilon *= min(smallest ** (2 if under_the_root else 1), 1.0)
    return rated


def _distances(graph: Graph) -> dict[int, int]:
    """Return, by `id` of each leaf, the maximum number of layers with a kernel after it on a path to an output."""
    far = dict.fromkeys(map(id, graph.leaves), 0)
    behind: dict[Ref, int] = {}  # maximum number of kernels after this tensor
    for call in reversed(graph.calls):
        own = max((behind.get(ref, 0) for ref in call.outputs), default=0)
        far[id(call.leaf)] = max(far[id(call.leaf)], own)
        for ref in refs_in([call.args, call.kwargs]):
            behind[ref] = max(behind.get(ref, 0), own + has_kernel(call.leaf))
    return far


def _with_factors(optimizer: Any, factors: list[tuple[Leaf, float]], model: str) -> Any:
    config = optimizer.get_config()
    if (schedule := keras_internals.rate_schedule(optimizer)) is not None:
        config["learning_rate"] = schedule  # its class may not be registered
    kind: Any = type(optimizer)
    rated = _rated(getattr(kind, "unrated", kind)).made(config)
    key = keras_internals.variable_key
    rated.factors = {key(rated, w): f for leaf, f in factors for w in leaf.layer.weights if hasattr(w, "assign")}
    rated.rated_model = model
    for name, value in keras_internals.decay_exclusions(optimizer).items():
        setattr(rated, name, value)
    return rated


@functools.cache
def _rated(base: Any) -> Any:
    """Return a subclass of the optimizer class `base`, of either Keras, with factors."""

    class Rated(base):  # type: ignore[misc]
        """An optimizer that updates each variable at the learning rate times its factor.

        Keras 3 passes the learning rate to `update_step`; tf_keras, and weight decay in both, look it up.
        """

        unrated = base
        factors: Mapping[str, float]  # by variable
        rated_model: str
        _factor = 1.0  # of the variable being updated

        @classmethod
        def made(cls, config: dict[str, Any]) -> Any:
            return super().from_config(config)

        @classmethod
        def from_config(cls, *args: Any, **kwargs: Any) -> Any:
            return base.from_config(*args, **kwargs)  # factors belong to one model's variables

        @property
        def learning_rate(self) -> Any:
            rate = base.learning_rate.fget(self)
            return rate if self._factor == 1 else rate * self._factor

        @learning_rate.setter
        def learning_rate(self, rate: Any) -> None:
            base.learning_rate.fset(self, rate)

        def build(self, variables: Any) -> None:
            if not any(keras_internals.variable_key(self, variable) in self.factors for variable in variables):
                raise RecipeError(
                    f"This optimizer has the layer rates of '{self.rated_model}', but trains variables of another "
                    "model. Call layer_rates with the model that you compile."
                )
            super().build(variables)

        @not_converted
        def update_step(self, gradient: Any, variable: Any, *rate: Any) -> Any:
            with self._at(variable):
                return super().update_step(gradient, variable, *(each * self._factor for each in rate))

        @not_converted
        def _apply_weight_decay(self, variables: Any) -> None:
            for variable in variables:
                with self._at(variable):
                    super()._apply_weight_decay([variable])

        @contextmanager
        def _at(self, variable: Any) -> Iterator[None]:
            self._factor = self.factors.get(keras_internals.variable_key(self, variable), 1.0)
            try:
                yield
            finally:
                self._factor = 1.0

    # Files and the bridge record the visible class: the base loads without tfopt and exists in both Kerases.
    Rated.__module__, Rated.__name__, Rated.__qualname__ = base.__module__, base.__name__, base.__qualname__
    return Rated
