"""PruneBlocks: remove whole residual blocks, so that the model is less deep."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base.config import config
from tfopt.base.words import counted
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.graph.types import flatten
from tfopt.stages.channels.inputs import check_inputs, rows_of
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.rules import choose, require_effect
from tfopt.stages.stage import Stage
from tfopt.surgery.channels.groups import channels_of
from tfopt.surgery.residual import ResidualBlock, residual_blocks, without_blocks

# A retry with a lower target keeps a share halfway between final_ratio and 1.
LOWER = 0.5
_TINY = float(np.finfo(np.float64).tiny)


@config
class PruneBlocks(Stage):
    """Remove the residual blocks that matter least, at once; then train what is left.

    A block can go where an addition joins it to a shortcut, which then stands alone (Veit et al. 2016,
    arXiv:1605.06431: a residual network loses little without one of its blocks). `chosen` removes them one by one: each
    time the one with the least change of the outputs for the multiplications that are saved.

    A rule `(layer, False)` keeps the block that contains the layer.

    Attributes:
        final_ratio: share of the multiplications of one sample that stays, between 0 and 1.
        score_samples: inputs on which the change is measured; 0 removes the largest blocks.
        blocks: names of the additions whose blocks go; empty for those that `chosen` finds.

    Examples:
        >>> inputs = keras.Input((8, 8, 1))
        >>> z = keras.layers.Conv2D(8, 3, padding="same")(inputs)
        >>> for number in range(2):
        ...     branch = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(z)
        ...     z = keras.layers.Add(name=f"add_{number}")([z, branch])
        >>> outputs = keras.layers.Dense(10, "softmax")(keras.layers.GlobalAveragePooling2D()(z))
        >>> residual = keras.Model(inputs, outputs)
        >>> stage = tfopt.PruneBlocks(blocks=("add_1",))
        >>> shallow = stage.strip(stage.apply(residual, steps=0))
        >>> residual.count_params() - shallow.count_params()  # a convolution from 8 to 8 channels
        584
    """

    min_steps: NonNegativeInt = 300
    final_ratio: float = Field(default=0.75, gt=0, lt=1)
    score_samples: NonNegativeInt = 256
    blocks: tuple[str, ...] = ()

    resizes: ClassVar[bool] = True
    restructures: ClassVar[bool] = True

    @property
    @override
    def _with_lower_target(self) -> "Stage | None":
        if self.blocks:
            return None
        return replace(self, final_ratio=1 - LOWER * (1 - self.final_ratio), retry="never")

    @override
    def for_dry_run(self) -> Stage:
        return replace(self, score_samples=0)

    @property
    @override
    def samples_wanted(self) -> int:
        return self.score_samples

    @override
    def holds_after(self, steps: int) -> int:
        return 0

    @override
    def chosen(self, model: Any, inputs: Any) -> tuple[Stage, list[str]]:
        if self.blocks:
            return self, []
        flat_model = bridge.to_tf_keras(model)
        inputs = bridge.by_valid_names(flat_model, inputs)
        check_inputs(flat_model, inputs)
        search = _Search(flat_model, rows_of(inputs, slice(0, self.score_samples)) if self.score_samples else None)
        free, gone, notes = self._free(flat_model), list[ResidualBlock](), list[str]()
        while search.share(gone) > self.final_ratio:
            best, change = search.next(free, gone, self.final_ratio)
            if best is None:
                raise RecipeError(
                    f"final_ratio={self.final_ratio:g} cannot be reached: without the {counted(len(gone), 'block')} of "
                    f"{len(free)} that can go together, {search.share(gone):.3f} of the MACs of '{flat_model.name}' "
                    "remain. Give a larger final_ratio, or remove channels with PruneChannels."
                )
            gone = [*gone, best]
            named = " and ".join(block.name for block in gone)
            notes.append(f"without {named}: the outputs change by {change:.4f} of their variance")
        return replace(self, blocks=tuple(block.name for block in gone)), notes

    def _free(self, flat_model: Any) -> list[ResidualBlock]:
        """Return the blocks that the rules let go.

        Raises:
            ModelError: the model has none.
            RecipeError: a rule sets something else than False or True, or matches no layer of a block.
        """
        blocks = residual_blocks(flat_model)
        if not blocks:
            raise ModelError(
                f"'{flat_model.name}' has no residual block that can be skipped: no addition of two tensors joins a "
                "shortcut and a branch with kernels that nothing else reads."
            )
        usual = dict.fromkeys((layer.name for layer in flat_model.layers), True)
        inside = {name for block in blocks for name in block.layers}
        said = "PruneBlocks expects False for a layer of a residual block. The blocks end in: "
        said += f"{', '.join(block.name for block in blocks)}."
        if wrong := [rule for rule in self.layers if type(rule[1]) is not bool]:
            raise RecipeError(f"The rule {wrong[0]} has no effect: {said}")
        kept = choose(self.layers, flat_model.layers, usual)
        require_effect(self.layers, flat_model.layers, inside, said)
        return [block for block in blocks if all(kept.get(name, True) is not False for name in block.layers)]

    def _named(self, flat_model: Any) -> list[ResidualBlock]:
        found = {block.name: block for block in residual_blocks(flat_model)}
        if unknown := [name for name in self.blocks if name not in found]:
            raise RecipeError(
                f"'{flat_model.name}' has no residual block {', '.join(unknown)}. Its blocks end in: "
                f"{', '.join(found) or 'none'}."
            )
        return [found[name] for name in self.blocks]

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps, keep
        if not self.blocks:
            raise DataError(
                "PruneBlocks needs inputs to choose the blocks by: stage, notes = stage.chosen(model, inputs) before "
                "apply, or blocks=(...) with the names of the additions."
            )
        return without_blocks(flat_model, self._named(flat_model))

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        del keep
        free = {block.name for block in self._free(model)}
        names = [layer.name for layer in model.layers if layer.weights]
        found = {name: Decision(name, why="in no residual block") for name in names}
        for block in residual_blocks(model):
            goes = "goes" if block.name in self.blocks else "may go" if block.name in free and not self.blocks else ""
            for name in block.layers:
                if name in found:
                    why = "" if goes else "kept by a rule" if block.name not in free else "stays"
                    found[name] = Decision(name, f"{goes} with {block.name}" if goes else "", why)
        return found

    @override
    def summary(self, model: Any) -> list[str]:
        return [f"removed {counted(len(self.blocks), 'residual block')}: {', '.join(self.blocks)}"]


class _Search:
    """Finds the blocks of a model that matter least.

    Args:
        flat_model: flat tf_keras.
        samples: inputs on which outputs are compared; None to choose by multiplications alone.

    Raises:
        ModelError: the outputs are not finite.
    """

    def __init__(self, flat_model: Any, samples: Any) -> None:
        self._model, self._samples = flat_model, samples
        self._macs = channels_of(flat_model).macs_by_layer()
        self._outputs = [] if samples is None else _outputs(flat_model, samples)

    def share(self, gone: Sequence[ResidualBlock]) -> float:
        """Return the share of the multiplications that is left without some blocks."""
        names = {name for block in gone for name in block.layers}
        left = sum(count for name, count in self._macs.items() if name not in names)
        return left / max(1, sum(self._macs.values()))

    def next(
        self, free: Sequence[ResidualBlock], gone: Sequence[ResidualBlock], target: float
    ) -> tuple[ResidualBlock | None, float]:
        """Return the block to remove after `gone`, and the change of the outputs without all of them.

        If some blocks reach the `target`, it is the one of these that changes the outputs least; else the one that
        changes them least for the multiplications that are saved. None if no further block can go.
        """
        shares = {block.name: self.share([*gone, block]) for block in free}
        rest = [block for block in free if shares[block.name] < self.share(gone)]
        changes = {block.name: self._change([*gone, block]) for block in rest}
        rest = [block for block in rest if np.isfinite(changes[block.name])]
        enough = [block for block in rest if shares[block.name] <= target]
        if not rest:
            return None, 0.0
        if enough:
            best = min(enough, key=lambda block: (changes[block.name], -shares[block.name]))
        else:
            best = min(rest, key=lambda block: (changes[block.name] / (1 - shares[block.name]), shares[block.name]))
        return best, changes[best.name]

    def _change(self, blocks: Sequence[ResidualBlock]) -> float:
        """Return the mean squared change of the outputs relative to their variance; infinity if that cannot be."""
        try:
            smaller = without_blocks(self._model, blocks)
            after = [] if self._samples is None else _outputs(smaller, self._samples)
        except ModelError:
            return np.inf
        pairs = zip(self._outputs, after, strict=True)
        return float(np.mean([np.square(a - b).mean() / max(b.var(), _TINY) for b, a in pairs] or [0.0]))


def _outputs(model: Any, samples: Any) -> list[np.ndarray]:
    found = [np.asarray(each, np.float64) for each in flatten(model.predict(samples, verbose=0))]
    if not all(np.isfinite(each).all() for each in found):
        raise ModelError(
            f"The outputs of '{model.name}' hold NaN or infinity on these inputs. Look at the inputs and the weights."
        )
    return found
