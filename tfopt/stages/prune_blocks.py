"""PruneBlocks: remove whole residual blocks, so that the model is less deep."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base.config import config
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.graph.types import flatten
from tfopt.stages.channels.inputs import check_inputs, rows_of
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.rules import choose
from tfopt.stages.stage import Stage
from tfopt.surgery.channels.groups import channels_of
from tfopt.surgery.residual import ResidualBlock, residual_blocks, without_blocks

# A retry with a lower target keeps a share halfway between final_ratio and 1.
LOWER = 0.5


@config
class PruneBlocks(Stage):
    """Remove the residual blocks that matter least, at once; then train what is left.

    A block can go where an addition joins it to a shortcut, which then stands alone (Veit et al. 2016,
    arXiv:1605.06431: a residual network loses little without one of its blocks). `chosen` removes them one by one: each
    time the one that changes the outputs least for the multiplications that it saves.

    A rule `(layer, False)` keeps the block that contains the layer.

    Attributes:
        final_ratio: share of the multiplications of one sample that stays, between 0 and 1.
        score_samples: inputs on which the change is measured.
        blocks: names of the additions whose blocks go; empty for those that `chosen` finds.
    """

    min_steps: NonNegativeInt = 300
    final_ratio: float = Field(default=0.75, gt=0, lt=1)
    score_samples: PositiveInt = 256
    blocks: tuple[str, ...] = ()

    resizes: ClassVar[bool] = True
    restructures: ClassVar[bool] = True

    @property
    @override
    def _with_lower_target(self) -> "Stage | None":
        return replace(self, final_ratio=1 - LOWER * (1 - self.final_ratio), blocks=(), retry="never")

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
        check_inputs(flat_model, inputs)
        samples = rows_of(inputs, slice(0, self.score_samples))
        free, macs = self._free(flat_model), _macs(flat_model)
        whole, outputs = sum(macs.values()), _outputs(flat_model, samples)
        gone, changes = list[ResidualBlock](), list[float]()
        while _left(macs, gone) > self.final_ratio * whole:
            rest = [block for block in free if block not in gone and _left(macs, [block]) < whole]
            if not rest:
                raise RecipeError(
                    f"final_ratio={self.final_ratio:g} cannot be reached: without all {len(free)} residual blocks of "
                    f"'{flat_model.name}' that may go, {_left(macs, free) / whole:.3f} of the MACs remain. Give a "
                    "larger final_ratio, or remove channels with PruneChannels."
                )
            change = {b.name: _change_without(flat_model, [*gone, b], outputs, samples) for b in rest}
            best = min(rest, key=lambda b: change[b.name] / (whole - _left(macs, [b])))
            if change[best.name] == np.inf:
                raise RecipeError(
                    f"final_ratio={self.final_ratio:g} cannot be reached: no residual block of '{flat_model.name}' can "
                    f"go beside {', '.join(b.name for b in gone)}. Give a larger final_ratio."
                )
            gone, changes = [*gone, best], [*changes, change[best.name]]
        notes = [
            f"without {block.name}: the outputs change by {value:.4f} of their variance"
            for block, value in zip(gone, changes, strict=True)
        ]
        return replace(self, blocks=tuple(block.name for block in gone)), notes

    def _free(self, flat_model: Any) -> list[ResidualBlock]:
        """Return the blocks that the rules let go.

        Raises:
            ModelError: the model has none.
            RecipeError: a rule sets something else than False, or matches nothing.
        """
        for name, setting in self.layers:
            if type(setting) is not bool:
                raise RecipeError(f"The rule ({name!r}, {setting!r}) of PruneBlocks expects False, to keep a block.")

        blocks = residual_blocks(flat_model)
        if not blocks:
            raise ModelError(
                f"'{flat_model.name}' has no residual block that can be skipped: no addition of two tensors joins a "
                "shortcut and a branch with kernels that nothing else reads."
            )
        kept = choose(self.layers, flat_model.layers, dict.fromkeys((layer.name for layer in flat_model.layers), True))
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
    def _stripped(self, model: Any, like: Any) -> Any:
        return bridge.clone(model)

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        del keep
        free = self._free(model)
        names = [layer.name for layer in model.layers if layer.weights]
        found = {name: Decision(name, why="in no residual block") for name in names}
        for block in residual_blocks(model):
            goes = block.name in self.blocks
            does = f"goes with {block.name}" if goes else f"may go with {block.name}" if block in free else ""
            for name in block.layers:
                if name in found:
                    found[name] = Decision(name, does, "" if does else "kept by a rule")
        return found

    @override
    def summary(self, model: Any) -> list[str]:
        return [f"removed {len(self.blocks)} residual blocks: {', '.join(self.blocks)}"]


def _macs(flat_model: Any) -> dict[str, int]:
    return channels_of(flat_model).macs_by_layer()


def _left(macs: dict[str, int], gone: Sequence[ResidualBlock]) -> int:
    """Return the multiplications without some blocks."""
    names = {name for block in gone for name in block.layers}
    return sum(count for name, count in macs.items() if name not in names)


def _outputs(model: Any, samples: Any) -> list[np.ndarray]:
    found = [np.asarray(each, np.float64) for each in flatten(model.predict(samples, verbose=0))]
    if not all(np.isfinite(each).all() for each in found):
        raise ModelError(
            f"The outputs of '{model.name}' hold NaN or infinity on these inputs. Look at the inputs and the weights."
        )
    return found


def _change_without(flat_model: Any, blocks: Sequence[ResidualBlock], before: list[np.ndarray], samples: Any) -> float:
    """Return how much the outputs change without some blocks, see `_change`; infinity if they cannot go together."""
    try:
        smaller = without_blocks(flat_model, blocks)
    except ModelError:
        return np.inf
    return _change(before, _outputs(smaller, samples))


def _change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Return the mean squared change of the outputs relative to their variance, over all outputs."""
    pairs = zip(before, after, strict=True)
    return float(np.mean([np.square(a - b).mean() / max(b.var(), np.finfo(float).tiny) for b, a in pairs]))
