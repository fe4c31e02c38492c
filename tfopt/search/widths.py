"""Choose how many channels each layer keeps by measuring files: their bytes, or their time on this machine."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.words import counted
from tfopt.errors import RecipeError
from tfopt.evaluate.timing import interleaved_times, speedup
from tfopt.graph.types import map_leaves
from tfopt.stages import PruneChannels
from tfopt.stages.channels.inputs import check_inputs
from tfopt.stages.channels.limits import limits_of
from tfopt.stages.channels.selection import select
from tfopt.stages.channels.shrinking import goal_of, scores_of
from tfopt.surgery.channels.cut import without_channels
from tfopt.surgery.channels.groups import Channels
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

ROUNDS, RUNS = 7, 30
"""Of the timing of a file beside that of the whole model."""


def choose_widths(
    stage: PruneChannels,
    model: Any,
    inputs: Any,
    export: Export | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[PruneChannels, list[str]]:
    """Return `stage` with the widths whose file meets its `final_ratio`, and notes on the choice.

    Every file that is tried is exported and measured whole, about ten of them: what a layer costs depends on its
    neighbors, with which kernels are fused, and on the widths in blocks.

    Args:
        stage: with a `measure` of files; any other is returned as it is.
        model: the stage's input, a Keras model of either kind.
        inputs: inputs of the model, to calibrate the files and for criteria that need some.
        export: the settings of the files; None for those of `Export()`.
        progress: called with a line of text for each file.

    Returns:
        The stage with `widths`, and notes.

    Raises:
        DataError: the inputs do not fit the model.
        ModelError: the model has no channels that can be removed.
        RecipeError: the smallest file is still too large or slow.
    """
    if not stage.measures_files:
        return stage, []
    flat_model = bridge.to_tf_keras(model)
    inputs = bridge.by_valid_names(flat_model, inputs)
    check_inputs(flat_model, inputs)
    channels = stage.channels(flat_model)
    files = _Files(channels, stage, export or Export(), inputs, progress)
    samples = map_leaves(lambda array: np.asarray(array)[: stage.score_samples], inputs)
    found, limits = scores_of(channels, stage, flat_model, samples), limits_of(stage, channels)
    _require_reachable(channels, stage, files)
    removed = select(
        channels, found, files.cost, stage.final_ratio, limits, distribution=stage.distribution, give_back=False
    )
    return dataclasses.replace(stage, widths=_widths(channels, removed)), [files.said(removed)]


def require_reachable(stage: PruneChannels, model: Any, inputs: Any, export: Export) -> None:
    """Raise `RecipeError` if even the smallest file has more than `final_ratio` of the bytes or milliseconds.

    Args:
        stage: with a measure of files.
        model: the stage's input.
        inputs: to calibrate two files.
        export: the settings of the files.
    """
    channels = stage.channels(bridge.to_tf_keras(model))
    _require_reachable(channels, stage, _Files(channels, stage, export, inputs, None))


def _require_reachable(channels: Channels, stage: PruneChannels, files: "_Files") -> None:
    if (least := files.cost(_all_that_may_go(channels, stage))) > stage.final_ratio:
        raise RecipeError(
            f"final_ratio={stage.final_ratio:g} cannot be reached: the smallest file has {least:.3f} of the "
            f"{stage.measure}. Give a larger final_ratio, or a smaller round_to or least."
        )


def with_likely_widths(stage: PruneChannels, model: Any) -> PruneChannels:
    """Return `stage` with widths that keep `final_ratio` of the channels, or as few as allowed, for a dry run.

    Args:
        stage: with a measure of files.
        model: the stage's input.
    """
    channels = stage.channels(bridge.to_tf_keras(model))
    alike, (count, most) = [np.ones(len(group)) for group in channels.groups], goal_of(channels, stage)
    removed = select(channels, alike, count, most, limits_of(stage, channels), give_back=False)
    return dataclasses.replace(stage, widths=_widths(channels, removed))


def _all_that_may_go(channels: Channels, stage: PruneChannels) -> list[int]:
    alike = [np.ones(len(group)) for group in channels.groups]
    return select(channels, alike, channels.parameters, 0, limits_of(stage, channels), give_back=False)


class _Files:
    """The files of a model without some channels, each measured once.

    Args:
        channels: of the model.
        stage: with a measure of files.
        export: the settings of the files.
        inputs: to calibrate them.
        progress: called with a line of text for each file.
    """

    def __init__(self, channels: Channels, stage: PruneChannels, export: Export, inputs: Any, progress: Any) -> None:
        self._channels, self._stage, self._progress = channels, stage, progress
        self._export, self._inputs = export, inputs
        self._whole = self._file(())
        self._costs: dict[tuple[int, ...], float] = {_widths(channels, ()): 1.0}

    def cost(self, removed: Iterable[int]) -> float:
        """Return the bytes or the time of the file without the channels `removed`, relative to those with all."""
        removed = list(removed)
        key = _widths(self._channels, removed)
        if key not in self._costs:
            self._costs[key] = self._measured(self._file(removed))
            if self._progress:
                kept = sum(key)
                self._progress(f"{counted(kept, 'channel')}: {self._costs[key]:.3f} of the {self._stage.measure}")
        return self._costs[key]

    def said(self, removed: Iterable[int]) -> str:
        """Return a note on the choice."""
        how = "" if self._stage.measure == "bytes" else ", measured side by side on this machine"
        return (
            f"chose the widths by measuring {len(self._costs)} files: {self.cost(removed):.3f} of the "
            f"{self._stage.measure} of the model with all channels{how}"
        )

    def _file(self, removed: Iterable[int]) -> LiteModel:
        return build_file(without_channels(self._channels, removed), self._export, self._inputs, proven=False)

    def _measured(self, file: LiteModel) -> float:
        if self._stage.measure == "bytes":
            return file.size / self._whole.size
        return 1 / speedup(*interleaved_times([self._whole, file], rounds=ROUNDS, runs=RUNS))


def _widths(channels: Channels, removed: Iterable[int]) -> tuple[int, ...]:
    """Return how many channels each group keeps."""
    gone = np.fromiter(removed, np.int64)
    return tuple(len(group) - int(np.isin(group.roots, gone).sum()) for group in channels.groups)
