"""FineTune: train all layers or only the upper ones, and keep the zeros of an earlier pruning stage."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from tfopt import bridge
from tfopt.base.annotations import annotate
from tfopt.base.config import config
from tfopt.base.keras_compat import tf_keras, tfmot, unwrapped
from tfopt.bridge.weights import copy_flags
from tfopt.errors import RecipeError
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.rules import choose
from tfopt.stages.prune.wrapper import hold_zeros, masked_weights, wrap_for_pruning, zeros_held
from tfopt.stages.stage import Stage
from tfopt.training.averaging import averaged_weights
from tfopt.training.freezing import BatchNorm, first_trained, last_with_weights, layers_in_order, pretrained_batchnorms
from tfopt.training.rates import as_remembered, rate_factors

HEAD = "head"
"""As `unfreeze_from`: the last layer with weights, unless the model has a layer with this name."""


@config
class FineTune(Stage):
    """Train all layers, or a named layer and those after it; the others are frozen during this stage only.

    A rule `(pattern, False)` in `layers` freezes the layers it matches and `(pattern, True)` trains them; rules
    override the settings below. After a pruning stage, zeros stay zero. Plain training cannot keep clusters: give
    `Cluster` more epochs instead.

    Attributes:
        unfreeze_from: the first trained layer in calling order, by name or path, or "head", the last layer with
            weights. All layers before it are frozen, with BatchNorm in inference mode. None trains every layer that the
            model has not frozen itself.
        batchnorm: "frozen" keeps every pretrained BatchNorm in inference mode, even between trained layers; see
            `tfopt.training.frozen`.
        layer_decay: each layer is trained at the learning rate times `layer_decay ** distance`, where the last layer
            has distance 0; see `tfopt.training.layer_rates`.
        ema_momentum: validate and keep the exponential moving average of the weights with this momentum, e.g. 0.99;
            None keeps the weights themselves.

    Examples:
        >>> stage = tfopt.FineTune(epochs=10, unfreeze_from="second", learning_rate=1e-4)
        >>> trainable = stage.apply(model, steps=7 * 10)
        >>> [layer.trainable for layer in trainable.layers if layer.weights]
        [False, True, True]
    """

    unfreeze_from: str | None = None
    batchnorm: BatchNorm = "train"
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    ema_momentum: float | None = Field(default=None, gt=0, lt=1)

    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    def apply(self, model: Any, *, steps: int, keep: Iterable[str] = ()) -> Any:
        """Return the model to train, see `Stage.apply`; a compiled model's optimizer gets this stage's layer rates.

        If you compile the result yourself, use `layer_rates(optimizer, result, decay=stage.layer_decay)`.

        Args:
            model: see `Stage.apply`.
            steps: see `Stage.apply`.
            keep: see `Stage.apply`.

        Returns:
            The model to train.

        Raises:
            ModelError: see `Stage.apply`; also if `unfreeze_from` names no layer.
            RecipeError: see `Stage.apply`; also if no layer is left to train.
        """
        applied = super().apply(model, steps=steps, keep=keep)
        if bridge.is_compiled(applied):
            applied.optimizer = as_remembered(applied.optimizer, applied)
        return applied

    @override
    def holds_after(self, steps: int) -> int:
        return 0

    @override
    def callbacks(self) -> list[Any]:
        averaged = [averaged_weights(self.ema_momentum)] if self.ema_momentum else []
        return [tfmot().sparsity.keras.UpdatePruningStep(), *averaged]

    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Return which layers of `model` are trained and at what rate, by layer name."""
        if self._is_plain():
            return super().decisions(model, keep)
        factors = {leaf.name: factor for leaf, factor in rate_factors(model, self.layer_decay)}
        return {
            name: Decision(name, _rate_in_words(factors[name])) if trained else Decision(name, why="frozen")
            for name, trained in self._trained(model).items()
        }

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        averaged = [f"keeps the moving average of the weights ({self.ema_momentum:g})"] if self.ema_momentum else []
        if self._is_plain():
            return [*super().notes(model, keep), *averaged]
        trained = self._trained(model)
        said = [*averaged, f"trains {sum(trained.values())} of {len(trained)} layers with weights"]
        if self.layer_decay < 1:
            lowest = min(f for leaf, f in rate_factors(model, self.layer_decay) if trained.get(leaf.name))
            said.append(f"layer learning rates from {lowest:.3g} to 1 times that of the last layer")
        return said

    def _is_plain(self) -> bool:
        return self.unfreeze_from is None and self.batchnorm == "train" and self.layer_decay == 1 and not self.layers

    def _trained(self, flat_model: Any) -> dict[str, bool]:
        """Return, by name, whether each layer of `flat_model` with weights is trained."""
        leaves = layers_in_order(flat_model)
        trained = {leaf.name: leaf.layer.trainable for leaf in leaves}
        if self.unfreeze_from is not None:
            first = self._first(leaves, flat_model.name)
            trained = {leaf.name: position >= first for position, leaf in enumerate(leaves)}
        if self.batchnorm == "frozen":
            norms = [leaf.name for leaf in leaves if leaf.layer in pretrained_batchnorms(leaf.layer, tf_keras())]
            trained.update(dict.fromkeys(norms, False))
        settings = choose(self.layers, [layer for layer in flat_model.layers if layer.weights], trained)
        for name, setting in settings.items():
            if not isinstance(setting, bool):
                raise RecipeError(f"Rules of FineTune must set True or False; got {setting}.")
            trained[name] = setting
        return {name: trained[name] for name in settings}

    def _first(self, leaves: Sequence[Any], model: str) -> int:
        name = self.unfreeze_from or HEAD
        if name == HEAD and HEAD not in (leaf.name for leaf in leaves):
            return last_with_weights(leaves, model)
        return first_trained(leaves, name, model)

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        trained = self._trained(flat_model)
        if steps and not any(trained.values()):
            raise RecipeError(f"FineTune has nothing to train in '{flat_model.name}': every layer is frozen.")
        self._set_flags(flat_model, trained)
        wrapped = flat_model
        if "sparsity" in keep:
            wrapped = wrap_for_pruning(flat_model, zeros_held(flat_model))
            for layer, copy in zip(flat_model.layers, wrapped.layers, strict=True):
                copy_flags(layer, unwrapped(copy))  # of inner layers, whose flags are not in the config
            hold_zeros(wrapped, scheduled=False)
        annotate(wrapped, layer_decay=self.layer_decay)
        return wrapped

    def _set_flags(self, flat_model: Any, trained: dict[str, bool]) -> None:
        for layer in flat_model.layers:
            if not layer.weights:
                continue
            if layer.trainable != trained[layer.name]:  # setting it also sets the flags of inner layers
                layer.trainable = trained[layer.name]
            if trained[layer.name] and self.batchnorm == "frozen":
                for norm in pretrained_batchnorms(layer, tf_keras()):
                    norm.trainable = norm is layer  # trained only because a rule names it

    def _trained_weights(self, layer: Any, flat_layer: Any) -> list[np.ndarray]:
        del flat_layer
        return masked_weights(layer)


def fine_tuning(
    unfreeze: Sequence[str] = (),
    *,
    frozen_epochs: int = 1,
    epochs: int = 4,
    learning_rate: float | None = None,
    layer_decay: float = 0.9,
    batchnorm: BatchNorm = "train",
) -> tuple[FineTune, ...]:
    """Return the stages of fastai's `fine_tune` (Howard & Gugger 2020, arXiv:2002.04688): first the head, then more.

    With several layers in `unfreeze` this is gradual unfreezing (Howard & Ruder 2018, arXiv:1801.06146, section 3.3):
    one stage per layer, each unfreezing more of the model.

    Args:
        unfreeze: the first trained layer of each stage after the head's, starting nearest to the output. Empty for one
            stage that trains all layers that the model has not frozen itself.
        frozen_epochs: epochs for the head alone, at the recipe's learning rate.
        epochs: epochs of each later stage.
        learning_rate: of each later stage; None uses the recipe's.
        layer_decay: of each later stage; see `FineTune`.
        batchnorm: of each later stage; see `FineTune`.

    Returns:
        The stages, in order.

    Raises:
        RecipeError: a value is out of range. An unknown layer is reported later, when the recipe is applied to a
            model, before training.

    Examples:
        >>> stages = tfopt.fine_tuning(unfreeze=("second", "first"), frozen_epochs=2, epochs=4)
        >>> [stage.unfreeze_from for stage in stages]
        ['head', 'second', 'first']
    """
    if isinstance(unfreeze, str):
        raise RecipeError(
            f"Expected unfreeze to be a sequence of layer names; got {unfreeze!r}. Write ({unfreeze!r},)."
        )
    below = FineTune(epochs=epochs, learning_rate=learning_rate, layer_decay=layer_decay, batchnorm=batchnorm)
    deeper = (dataclasses.replace(below, unfreeze_from=name) for name in unfreeze or (None,))
    return (FineTune(epochs=frozen_epochs, unfreeze_from=HEAD), *deeper)


def _rate_in_words(factor: float) -> str:
    return "trained" if factor == 1 else f"trained at {factor:.3g} times the rate"
