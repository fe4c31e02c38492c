"""The contract of all stages, and the crossing between the two Kerases that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any, ClassVar

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, field_validator

from tfopt import bridge
from tfopt.base.config import config
from tfopt.base.keras_compat import unwrapped, wrapped_layers
from tfopt.errors import ModelError, PromiseError, RecipeError
from tfopt.stages.budget import Budget
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.kernels.rules import Rule
from tfopt.stages.kernels.table import named_kernel

_RENAMED_METHODS = {"learnt": "summary", "rehearsed": "for_dry_run"}


@config
class Stage(ABC):
    """One step of a recipe: a frozen config and what it does to a model.

    Attributes:
        epochs: passes over the training data (0: no training, the change alone).
        learning_rate: replaces the recipe's learning rate during this stage.
        layers: ordered rules `(pattern, setting)`, see `tfopt.stages.kernels.rules`; the first match wins.
    """

    epochs: NonNegativeInt = 1
    learning_rate: PositiveFloat | None = None
    layers: tuple[Rule, ...] = field(default=())

    establishes: ClassVar[str | None] = None
    """The property that later stages must keep: "sparsity", "clusters" or None."""
    preserves: ClassVar[frozenset[str]] = frozenset()
    """The properties that this stage can keep when an earlier stage established them."""
    last: ClassVar[bool] = False
    """True when the trained graph itself is what gets exported, so that no stage can follow."""
    resizes: ClassVar[bool] = False
    """True when `strip` may return layers of other sizes. Names, kinds and order stay."""
    takes_words: ClassVar[bool] = False
    """True when a rule in `layers` may also set a word."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a method under its old name, which nobody would call."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED_METHODS.items():
            if old in vars(cls):
                raise RecipeError(f"{cls.__name__}.{old} is called {new} from 0.2.0 on. Rename the method.")

    @field_validator("layers")
    @classmethod
    def _check_settings(cls, layers: tuple[Rule, ...]) -> tuple[Rule, ...]:
        for pattern, setting in layers:
            if isinstance(setting, str) and not cls.takes_words:
                raise ValueError(f"the rule for '{pattern}' says {setting!r}; expected True, False or a number")
        return layers

    def apply(self, model: Any, *, steps: int, keep: Iterable[str] = ()) -> Any:
        """A new tf_keras model, ready to `compile` and `fit`; compiled like `model`, if that is.

        Args:
            model: a Keras 3 or tf_keras model, Sequential or Functional. It is not changed.
            steps: how many training steps (batches) the coming `fit` will run in all.
            keep: what earlier stages established, e.g. `{"sparsity"}`.

        Raises:
            ModelError: the model cannot be bridged, or a layer cannot take part.
            RecipeError: a rule matches nothing, or `keep` asks for what this stage cannot keep.
        """
        keep = frozenset(keep)
        if lost := keep - self.preserves:
            raise RecipeError(
                f"{type(self).__name__} cannot keep {', '.join(sorted(lost))}. "
                f"It can keep: {', '.join(sorted(self.preserves)) or 'nothing'}. Put it earlier in the recipe."
            )
        if steps < 0:
            raise RecipeError(f"Expected the number of training steps, 0 or more, as steps; got {steps}.")
        wrapped = self._wrap(bridge.to_tf_keras(model), steps, keep)
        if bridge.is_compiled(model):
            bridge.compile_like(wrapped, model)
        bridge.remember(wrapped, model)
        return wrapped

    def calibrate(self, model: Any, inputs: np.ndarray, *, progress: Callable[[str], None] | None = None) -> None:
        """Prepare what `apply` returned with training `inputs` (float32, batch first) before `fit`.

        `progress` is told what has been done, where that takes long.
        """

    @property
    def samples_wanted(self) -> int:
        """How many training inputs `calibrate` makes use of."""
        return 0

    @property
    def budget(self) -> Budget | None:
        """What the file may cost, where bits are to be chosen by that."""
        return None

    def for_dry_run(self) -> "Stage":
        """This stage as it is tried on the untrained model, in seconds."""
        return self

    def summary(self, model: Any) -> list[str]:
        """What is to be said of `model`, which `apply` returned, after `calibrate` and `fit`."""
        del model
        return []

    def callbacks(self) -> list[Any]:
        """The tf_keras callbacks that `fit` needs for this stage."""
        return []

    def strip(self, model: Any) -> Any:
        """What `apply` returned, after `fit`, as a plain model of the kind of Keras that `apply` was given.

        Raises `PromiseError` when the training did not reach what the stage promises.
        """
        like = self._origin(model)
        flat_model = self._stripped(model, like)
        self._verify_flat_model(flat_model)
        return bridge.to_keras(flat_model, like=like, resized=self.resizes)

    def untrained_result(self, model: Any) -> Any:
        """Return the flat tf_keras model that the next stage is tried on, in a dry run.

        No promise is checked. Where this stage does not resize, this is what `apply` was given.

        Args:
            model: what `apply` returned for a flat tf_keras model, not trained.
        """
        like = self._origin(model)
        return self._stripped(model, like) if self.resizes else like

    def _origin(self, model: Any) -> Any:
        like = bridge.origin(model)
        if like is None:
            raise ModelError(
                f"{type(self).__name__}.strip expects the model that {type(self).__name__}.apply returned; "
                f"'{model.name}' is another one. Keep that object and fit it."
            )
        return like

    def _stripped(self, model: Any, like: Any) -> Any:
        """A flat model without wrappers, with the weights of the trained `model`."""
        flat_model = self._without_wrappers(model, like)
        trained = wrapped_layers(model)
        for layer in flat_model.layers:
            if layer.weights:
                layer.set_weights(self._trained_weights(trained[layer.name], layer))
        return flat_model

    def _without_wrappers(self, model: Any, like: Any) -> Any:
        """A flat model without wrappers, whose sizes are those after this stage.

        By default those of `like`, or of `model` where this stage resizes; a stage that resizes and wraps, too,
        overrides this.
        """
        return bridge.clone(model) if self.resizes else bridge.to_tf_keras(like)

    def verify(self, model: Any) -> None:
        """Raise `PromiseError` when a plain `model` does not hold what this stage promises."""
        self._verify_flat_model(bridge.to_tf_keras(model))

    def _verify_flat_model(self, flat_model: Any) -> None:
        by_name = {layer.name: layer for layer in flat_model.layers}
        for promise in self.promises(flat_model):
            kernel = named_kernel(by_name[promise.layer], promise.weight)
            if wrong := promise.broken(kernel.values, kernel.channel_axis):
                raise PromiseError(f"{type(self).__name__}: {promise.place}: {wrong}. {self._advice()}")

    def promises(self, model: Any) -> list[Promise]:
        """What holds for the kernels of `model` (flat tf_keras) after this stage."""
        del model
        return []

    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """What this stage does with each layer of `model` (flat tf_keras) that has weights, by layer name.

        `keep` is what earlier stages established. Raises `RecipeError` or `ModelError` where `apply` would.
        """
        del keep
        return {layer.name: Decision(layer.name) for layer in model.layers if layer.weights}

    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        """What a reader of the report should know about this stage and `model`, e.g. layers left alone."""
        del model, keep
        return []

    @abstractmethod
    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        """`flat_model` (an own, flat tf_keras copy) as the model to train; layer names stay recognizable."""

    def _trained_weights(self, layer: Any, flat_layer: Any) -> list[np.ndarray]:
        """The weights of one (wrapped) layer after training, in the order of its `flat_layer`."""
        del flat_layer
        return [np.asarray(weight) for weight in unwrapped(layer).get_weights()]

    def _advice(self) -> str:
        return "Train longer, or lower the target."
