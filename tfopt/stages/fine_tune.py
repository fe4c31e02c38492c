"""FineTune: ordinary training, which keeps the zeros that an earlier stage made."""

from typing import Any, ClassVar

import numpy as np

from tfopt.config import config
from tfopt.errors import RecipeError
from tfopt.legacy import tfmot
from tfopt.stages.pruning_wrapper import hold_zeros, masked_weights, wrap_for_pruning, zeros_held
from tfopt.stages.rules import choose
from tfopt.stages.stage import Stage


@config
class FineTune(Stage):
    """Train all layers, or those that the rules leave on.

    A rule `(pattern, False)` in `layers` freezes the layers it matches. After a pruning stage the zeros stay
    zeros. Clusters cannot be kept by plain training: give `Cluster` more epochs instead.
    """

    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    def callbacks(self) -> list[Any]:
        return [tfmot().sparsity.keras.UpdatePruningStep()]

    def _wrap(self, legacy: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps
        layers = [layer for layer in legacy.layers if layer.weights]
        settings = choose(self.layers, layers, {layer.name: layer.trainable for layer in layers})
        for layer in layers:
            if not isinstance(settings[layer.name], bool):
                raise RecipeError(
                    f"FineTune trains a layer or not: a rule says True or False, not {settings[layer.name]}."
                )
            layer.trainable = settings[layer.name]
        if "sparsity" not in keep:
            return legacy
        wrapped = wrap_for_pruning(legacy, zeros_held(legacy))
        hold_zeros(wrapped, scheduled=False)
        return wrapped

    def _trained_weights(self, layer: Any, plain: Any) -> list[np.ndarray]:
        del plain
        return masked_weights(layer)
