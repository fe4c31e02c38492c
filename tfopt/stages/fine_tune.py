"""FineTune: ordinary training of all layers or of the upper ones, which keeps the zeros that an earlier stage made."""

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
from tfopt.training.freezing import BatchNorm, first_trained, last_with_weights, layers_in_order, pretrained_batchnorms
from tfopt.training.rates import as_remembered, rate_factors

HEAD = "head"
"""As `unfreeze_from`: the last layer with weights, unless the model has a layer of that name."""


@config
class FineTune(Stage):
    """Train all layers, or those from a named one on; the others are frozen during this stage alone.

    A rule `(pattern, False)` in `layers` freezes the layers it matches, `(pattern, True)` trains them, whatever the
    settings below say. After a pruning stage the zeros stay zeros. Clusters cannot be kept by plain training: give
    `Cluster` more epochs instead.

    Attributes:
        unfreeze_from: the first trained layer in calling order, by its name or path, or "head": the last one with
            weights. All before are frozen, with BatchNorm in inference mode. None: layers that the model has frozen
            stay so, all others are trained.
        batchnorm: "frozen" keeps every pretrained BatchNorm in inference mode, also where its neighbors are trained;
            see `tfopt.training.frozen`.
        layer_decay: each layer is trained at the learning rate times `layer_decay ** distance`, where the last layer
            has distance 0; see `tfopt.training.layer_rates`.
    """

    unfreeze_from: str | None = None
    batchnorm: BatchNorm = "train"
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    def apply(self, model: Any, *, steps: int, keep: Iterable[str] = ()) -> Any:
        """As `Stage.apply`; the optimizer of a compiled model gets this stage's rates for the layers.

        Where you compile the result yourself, do it with `layer_rates(optimizer, result, decay=stage.layer_decay)`.
        Raises `ModelError` also where `unfreeze_from` names no layer, `RecipeError` where nothing is left to train.
        """
        applied = super().apply(model, steps=steps, keep=keep)
        if bridge.is_compiled(applied):
            applied.optimizer = as_remembered(applied.optimizer, applied)
        return applied

    @override
    def callbacks(self) -> list[Any]:
        return [tfmot().sparsity.keras.UpdatePruningStep()]

    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Which layers of `model` (flat tf_keras) are trained, and at what rate, by layer name."""
        if self._is_plain():
            return super().decisions(model, keep)
        factors = {leaf.name: factor for leaf, factor in rate_factors(model, self.layer_decay)}
        return {
            name: Decision(name, _rate_in_words(factors[name])) if trained else Decision(name, why="frozen")
            for name, trained in self._trained(model).items()
        }

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        if self._is_plain():
            return super().notes(model, keep)
        trained = self._trained(model)
        said = [f"trains {sum(trained.values())} of {len(trained)} layers with weights"]
        if self.layer_decay < 1:
            lowest = min(f for leaf, f in rate_factors(model, self.layer_decay) if trained.get(leaf.name))
            said.append(f"learning rates of the layers from {lowest:.3g} times to once that of the last one")
        return said

    def _is_plain(self) -> bool:
        return self.unfreeze_from is None and self.batchnorm == "train" and self.layer_decay == 1 and not self.layers

    def _trained(self, flat_model: Any) -> dict[str, bool]:
        """For each layer of `flat_model` with weights, by name, whether it is trained."""
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
                raise RecipeError(f"FineTune trains a layer or not: a rule says True or False, not {setting}.")
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
            raise RecipeError(f"FineTune leaves nothing of '{flat_model.name}' to train: every layer is frozen.")
        self._set_flags(flat_model, trained)
        wrapped = flat_model
        if "sparsity" in keep:
            wrapped = wrap_for_pruning(flat_model, zeros_held(flat_model))
            for layer, copy in zip(flat_model.layers, wrapped.layers, strict=True):
                copy_flags(layer, unwrapped(copy))  # of layers inside, which a config does not hold
            hold_zeros(wrapped, scheduled=False)
        annotate(wrapped, layer_decay=self.layer_decay)
        return wrapped

    def _set_flags(self, flat_model: Any, trained: dict[str, bool]) -> None:
        for layer in flat_model.layers:
            if not layer.weights:
                continue
            if layer.trainable != trained[layer.name]:  # setting it sets the flags of layers inside too
                layer.trainable = trained[layer.name]
            if trained[layer.name] and self.batchnorm == "frozen":
                for norm in pretrained_batchnorms(layer, tf_keras()):
                    norm.trainable = norm is layer  # which a rule asked for

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
    """The stages of fastai's `fine_tune` (Howard & Gugger 2020, arXiv:2002.04688): the head alone, then what is below.

    With several layers in `unfreeze` it is gradual unfreezing (Howard & Ruder 2018, arXiv:1801.06146, section 3.3): one
    stage for each, every one deeper into the model than the one before.

    Args:
        unfreeze: the first trained layer of each stage after the head's, the one nearest to the output first. Empty:
            one stage that trains all layers, but for those that the model itself has frozen.
        frozen_epochs: for the head alone, at the recipe's learning rate.
        epochs: of every stage after that.
        learning_rate: of every stage after the head's; None takes the recipe's.
        layer_decay: of every stage after the head's; see `FineTune`.
        batchnorm: of every stage after the head's; see `FineTune`.

    Raises:
        RecipeError: a value out of range. A wrong layer is told when the recipe meets a model, before training.
    """
    if isinstance(unfreeze, str):
        raise RecipeError(
            f"Expected unfreeze to be a sequence of layer names; got {unfreeze!r}. Write ({unfreeze!r},)."
        )
    below = FineTune(epochs=epochs, learning_rate=learning_rate, layer_decay=layer_decay, batchnorm=batchnorm)
    deeper = (dataclasses.replace(below, unfreeze_from=name) for name in unfreeze or (None,))
    return (FineTune(epochs=frozen_epochs, unfreeze_from=HEAD), *deeper)


def _rate_in_words(factor: float) -> str:
    return "trained" if factor == 1 else f"trained at {factor:.3g} of the rate"
