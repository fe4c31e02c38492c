"""The contract of all stages and their shared conversion between Keras 3 and tf_keras."""

import functools
import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field, replace
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, field_validator

from tfopt import bridge
from tfopt.base.annotations import annotations, trained_model
from tfopt.base.config import config
from tfopt.base.keras_compat import float32_layers, is_tf_keras_model, unwrapped, wrapped_layers
from tfopt.errors import ModelError, PromiseError, RecipeError
from tfopt.graph.walk import is_model
from tfopt.models.hub import with_native_layers
from tfopt.stages.budget import Budget
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.layer_copies import without_wrappers
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.kernels.rules import Rule
from tfopt.stages.kernels.table import has_kernel, kernels, named_kernel

_CALLER = 3  # frames up from `apply`, which is decorated
_RENAMED_METHODS = {"learnt": "summary", "rehearsed": "for_dry_run"}
Method = TypeVar("Method", bound=Callable[..., Any])
_ON_FLAT_MODELS = ("decisions", "notes", "promises")


def _on_flat_model(method: Method) -> Method:
    """Return `method` of a stage, called with a flat tf_keras model whatever model it is given."""

    @functools.wraps(method)
    def on_any_model(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, bridge.as_flat_model(with_native_layers(model)), *args, **kwargs)

    return cast("Method", on_any_model)


@config
class Stage(ABC):
    """One step of a recipe: a frozen config and the methods that apply it to a model.

    Attributes:
        epochs: passes over the training data; 0 changes the model without training.
        min_steps: train for more epochs if these have fewer steps (batches) than this, as on small data sets.
        learning_rate: replaces the recipe's learning rate during this stage.
        retry: the second try if the model becomes worse by more than `Recipe.max_drop`: "longer", at half the rate for
            twice the epochs; "lower", with a lower target, if the stage has one; "never".
        layers: ordered rules `(pattern, setting)`, see `tfopt.stages.kernels.rules`; the first match wins.

    Examples:
        >>> stage = tfopt.Prune(final_sparsity=0.5)
        >>> isinstance(stage, tfopt.extend.Stage), stage.epochs_on(100)  # 3 epochs of 100 steps for min_steps=300
        (True, 3)
        >>> from tfopt import bridge
        >>> stage.promises(bridge.to_tf_keras(model))[0]
        Sparsity(layer='first', weight='kernel', at_least=0.5)
    """

    epochs: NonNegativeInt = 1
    learning_rate: PositiveFloat | None = None
    min_steps: NonNegativeInt = 0
    retry: Literal["longer", "lower", "never"] = "longer"
    layers: tuple[Rule, ...] = field(default=())

    establishes: ClassVar[str | None] = None
    """The property that later stages must keep: "sparsity", "clusters" or None."""
    preserves: ClassVar[frozenset[str]] = frozenset()
    """The properties from earlier stages that this stage can keep."""
    last: ClassVar[bool] = False
    """Whether the trained graph itself is exported, so that no stage can follow."""
    resizes: ClassVar[bool] = False
    """Whether `strip` may return layers of other sizes. Names, classes and order stay the same."""
    restructures: ClassVar[bool] = False
    """Whether `strip` may also return fewer or more layers; then `resizes` is True as well."""
    takes_words: ClassVar[bool] = False
    """Whether the setting of a rule in `layers` may be a string."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raise RecipeError for a method with an old name, which nothing would call; let methods take any model."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED_METHODS.items():
            if old in vars(cls):
                raise RecipeError(f"{cls.__name__}.{old} was renamed to {new} in 0.2.0. Rename the method.")
        for name in set(_ON_FLAT_MODELS) & set(vars(cls)):
            setattr(cls, name, _on_flat_model(vars(cls)[name]))

    @field_validator("layers")
    @classmethod
    def _check_settings(cls, layers: tuple[Rule, ...]) -> tuple[Rule, ...]:
        for pattern, setting in layers:
            if isinstance(setting, str) and not cls.takes_words:
                raise ValueError(f"the rule for '{pattern}' sets {setting!r}; expected True, False or a number")
        return layers

    def epochs_on(self, steps_per_epoch: int) -> int:
        """Return the number of epochs for `steps_per_epoch`: `epochs`, or more for `min_steps`."""
        return max(self.epochs, -(-self.min_steps // steps_per_epoch)) if self.epochs else 0

    def gentler(self, learning_rate: float) -> "Stage | None":
        """Return this stage for a second try, given the `learning_rate` of the first; None for no second try."""
        if self.retry == "lower":
            return self._with_lower_target
        if self.retry == "never" or not self.epochs:
            return None
        return replace(self, learning_rate=learning_rate / 2, epochs=2 * self.epochs, min_steps=2 * self.min_steps)

    @property
    def _with_lower_target(self) -> "Stage | None":
        """This stage with a lower target; None if it has no target."""
        return None

    def seeded(self, seed: int) -> "Stage":
        """Return this stage with `seed` if it has a field `seed` that is None, else unchanged."""
        return replace(self, seed=seed) if getattr(self, "seed", 0) is None else self  # type: ignore[call-arg]

    def holds_after(self, steps: int) -> int:
        """Return the step of a training of `steps` steps from which on weights may be kept, because promises hold.

        0 stands for the start. By default only the end of the training counts.
        """
        return steps

    def __post_init__(self) -> None:
        """Raise RecipeError for settings that contradict each other."""
        if self.retry == "lower" and self._with_lower_target is None:
            raise RecipeError(f'{type(self).__name__} has no target to lower. Set retry="longer" or "never".')

    @float32_layers()
    def apply(self, model: Any, *, steps: int, keep: Iterable[str] = ()) -> Any:
        """Return a new tf_keras model, ready to `compile` and `fit`.

        Args:
            model: a Keras 3 or tf_keras model, Sequential or Functional. It is not changed.
            steps: total number of training steps (batches) of the `fit` that follows.
            keep: properties that earlier stages established, e.g. `{"sparsity"}`.

        Returns:
            The model to train. If `model` is compiled, the result is compiled in the same way.

        Raises:
            ModelError: the model cannot be bridged, or a layer is not supported.
            RecipeError: a rule matches nothing, or this stage cannot keep a property in `keep`.
        """
        if isinstance(keep, str):
            raise RecipeError(f'Expected keep to be a set of properties, e.g. {{"{keep}"}}; got the text {keep!r}.')
        keep = frozenset(keep)
        if lost := keep - self.preserves:
            raise RecipeError(
                f"{type(self).__name__} cannot keep {', '.join(sorted(lost))}. "
                f"It can keep: {', '.join(sorted(self.preserves)) or 'nothing'}. Put it earlier in the recipe."
            )
        if not isinstance(steps, numbers.Integral) or steps < 0:
            raise RecipeError(
                f"Expected steps, the number of training steps, to be a whole number, 0 or more; got {steps!r}."
            )
        if not is_model(model):
            raise ModelError(
                f"Expected a Keras 3 or tf_keras model, got {type(model).__name__}; tfopt.load_model opens a file."
            )
        if annotations(model).student is not None:
            raise ModelError(
                f"'{model.name}' comes from tfopt.distill. Apply {type(self).__name__} to the student first; then let "
                "tfopt.distill train what `apply` returned."
            )
        if said := bridge.said_of_own_training(model):
            warnings.warn(f"{said} over what `apply` returns", stacklevel=_CALLER)
        model = with_native_layers(model)
        bridge.require_rebuildable(model)
        flat_model = bridge.to_tf_keras(model)
        for said in _nothing_to_keep(flat_model, keep):
            warnings.warn(said, stacklevel=_CALLER)
        wrapped = self._wrap(flat_model, steps, keep)
        if not is_tf_keras_model(wrapped):
            raise ModelError(f"{type(self).__name__}._wrap must return a tf_keras model; it returned {wrapped!r:.80}.")
        wrapped.output_names = list(flat_model.output_names)  # not those of wrappers, for targets by name
        if bridge.is_compiled(model):
            for note in bridge.compile_like(wrapped, model):
                warnings.warn(note, stacklevel=_CALLER)
        bridge.remember(wrapped, model)
        bridge.accept_keras3(wrapped, bridge.Fitting(self.callbacks, self.holds_after(steps)))
        return wrapped

    def calibrate(self, model: Any, inputs: np.ndarray, *, progress: Callable[[str], None] | None = None) -> None:
        """Prepare the model from `apply` with training inputs, before `fit`.

        Args:
            model: the model that `apply` returned; changed in place.
            inputs: training inputs, float32, batch first.
            progress: called with a line of text after each part of long work.
        """

    @property
    def samples_wanted(self) -> int:
        """The number of training inputs that `calibrate` uses."""
        return 0

    @property
    def budget(self) -> Budget | None:
        """The limits of the file if this stage chooses bits by them, else None."""
        return None

    def chosen(self, model: Any, inputs: Any) -> tuple["Stage", list[str]]:
        """Return this stage with the choices made that need inputs, and notes on them.

        `optimize` calls it before `apply`; by hand, call it for stages whose `apply` asks for it.

        Args:
            model: the model for `apply`, of either Keras.
            inputs: training inputs, as `calibrate` takes them.

        Returns:
            The stage, this one if there is nothing to choose, and notes for the report.

        Raises:
            DataError, ModelError, RecipeError: as `apply` would, or if no choice meets the stage's target.
        """
        del model, inputs
        return self, []

    def for_dry_run(self) -> "Stage":
        """Return a variant of this stage for the dry run on the untrained model, which takes seconds."""
        return self

    def summary(self, model: Any) -> list[str]:
        """Return lines for the report about `model`, which `apply` returned, after `calibrate` and `fit`."""
        del model
        return []

    def callbacks(self) -> list[Any]:
        """Return the tf_keras callbacks that `fit` needs for this stage."""
        return []

    def strip(self, model: Any) -> Any:
        """Remove the wrappers after `fit` and return a plain model in the Keras of the model given to `apply`.

        Args:
            model: the trained model that `apply` returned, or the `distill` of it.

        Returns:
            A new model without wrappers.

        Raises:
            ModelError: `model` did not come from `apply`.
            PromiseError: training did not reach a target of this stage.
        """
        model = trained_model(model)
        like = self._origin(model)
        flat_model = self._stripped(model, like)
        if not is_tf_keras_model(flat_model):
            raise ModelError(
                f"{type(self).__name__}._stripped must return a tf_keras model; it returned {flat_model!r:.80}."
            )
        self._verify_flat_model(flat_model)
        return bridge.to_keras(flat_model, like=like, resized=self.resizes)

    def untrained_result(self, model: Any) -> Any:
        """Return the flat tf_keras model for the next stage of a dry run, without checking promises.

        It should keep the promises of this stage as far as possible without training, so that the dry run shows whether
        the next stages and the file keep them.

        Args:
            model: the untrained model that `apply` returned for a flat tf_keras model.

        Returns:
            A new model without wrappers.
        """
        return self._stripped(model, self._origin(model))

    def _origin(self, model: Any) -> Any:
        like = bridge.origin(model)
        if like is None and any(unwrapped(layer) is not layer for layer in model.layers):
            return without_wrappers(model)  # from a file
        if like is None:
            raise ModelError(
                f"{type(self).__name__}.strip expects the model that {type(self).__name__}.apply returned; "
                f"'{model.name}' is a different one. Fit the object that apply returned."
            )
        return like

    def _stripped(self, model: Any, like: Any) -> Any:
        """Return a flat model without wrappers, with the weights of the trained `model`."""
        if self.restructures:  # what `_wrap` returned is the new architecture itself
            return bridge.clone(model)
        flat_model = self._without_wrappers(model, like)
        trained = wrapped_layers(model)
        for layer in flat_model.layers:
            if layer.weights:
                layer.set_weights(self._trained_weights(trained[layer.name], layer))
        return flat_model

    def _without_wrappers(self, model: Any, like: Any) -> Any:
        """Return a flat model without wrappers, with the layer sizes after this stage.

        By default the sizes are those of `like`, or those of `model` if this stage resizes. A stage that both resizes
        and wraps overrides this.
        """
        return bridge.clone(model) if self.resizes else bridge.to_tf_keras(like)

    def verify(self, model: Any) -> None:
        """Raise PromiseError if a plain `model` breaks a promise of this stage."""
        self._verify_flat_model(bridge.to_tf_keras(model))

    def _verify_flat_model(self, flat_model: Any) -> None:
        by_name = {layer.name: layer for layer in flat_model.layers}
        for promise in self.promises(flat_model):
            kernel = named_kernel(by_name[promise.layer], promise.weight)
            if wrong := promise.broken(kernel.values, kernel.channel_axis):
                raise PromiseError(f"{type(self).__name__}: {promise.place}: {wrong}. {self._advice()}")

    @_on_flat_model
    def promises(self, model: Any) -> list[Promise]:
        """Return the promises about the kernels of `model` after this stage, by the names of its flat model."""
        del model
        return []

    @_on_flat_model
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Return what this stage does with each layer that has weights.

        Args:
            model: a model of either Keras; a method that overrides this one gets it as a flat tf_keras model.
            keep: properties that earlier stages established.

        Returns:
            Decisions by layer name in the flat model.

        Raises:
            ModelError: as in `apply`.
            RecipeError: as in `apply`.
        """
        del keep
        return {layer.name: Decision(layer.name) for layer in model.layers if layer.weights}

    @_on_flat_model
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        """Return notes on `model` for the report, e.g. the layers that stay unchanged; `keep` as in `apply`."""
        del model, keep
        return []

    @abstractmethod
    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        """Return the model to train, made from `flat_model`, a flat tf_keras copy. Layer names stay recognizable."""

    def _trained_weights(self, layer: Any, flat_layer: Any) -> list[np.ndarray]:
        """Return the weights of one (wrapped) layer after training, in the order of its `flat_layer`."""
        del flat_layer
        return [np.asarray(weight) for weight in unwrapped(layer).get_weights()]

    def _advice(self) -> str:
        return "Train longer, or lower the target."


def _nothing_to_keep(flat_model: Any, keep: Iterable[str]) -> Iterator[str]:
    """Yield a line for each property in `keep` that no kernel of `flat_model` has: it was lost before."""
    found = [kernel.values for layer in flat_model.layers if has_kernel(layer) for kernel in kernels(layer)]
    if "sparsity" in keep and found and not any((values == 0).any() for values in found):
        yield f"keep={{'sparsity'}}, but no kernel of '{flat_model.name}' has a zero: nothing is kept"
    if "clusters" in keep and found and all(np.unique(values).size == values.size for values in found):
        yield f"keep={{'clusters'}}, but no kernel of '{flat_model.name}' has two equal weights: nothing is kept"
