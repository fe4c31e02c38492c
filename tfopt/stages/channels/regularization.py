"""A penalty on channels before they are removed, so that their removal changes less."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.surgery.channels.groups import Channels

SPREAD = 4.0
"""The exponent of DepGraph's equation 4: the least important channel of a group is penalized 2^4 times more."""


def shrink_weights(channels: Channels, scores: Sequence[np.ndarray], removed: Sequence[int], strength: float) -> None:
    """Take one step of gradient descent on the penalty, in place: each weight of a channel times 1 - strength * gamma.

    The penalty is sum_k gamma_k ||w_k||^2 / 2 over channels, gamma_k = 2^(4 (I_max - I_k) / (I_max - I_min)) with the
    importance I of each channel in its group (Fang et al. 2023, arXiv:2301.12900, equation 4).

    Args:
        channels: of the model.
        scores: the importance of the channels of each group.
        removed: roots of the removed channels.
        strength: of the penalty, times the learning rate.
    """
    leaves = {leaf.name: leaf.layer for leaf in channels.trace.graph.leaves}
    factors: dict[tuple[str, int], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for group, score in zip(channels.groups, scores, strict=True):
        stays = ~np.isin(group.roots, list(removed))
        factor = np.ones(len(group))
        factor[stays] = 1 - np.minimum(strength * weights_of_penalty(score[stays]), 1.0)
        for part in group.parts:
            factors.setdefault((part.slot.leaf.name, part.slot.index), []).append((part.slot.axis, part.places, factor))
    for (name, index), parts in factors.items():
        variable: Any = leaves[name].weights[index]
        if not variable.trainable:
            continue
        for axis, places, factor in parts:
            along = np.ones(variable.shape[axis], np.float32)
            along[places] = factor[:, None]
            shape = [1] * len(variable.shape)
            shape[axis] = -1
            variable.assign(variable * along.reshape(shape))


def weights_of_penalty(scores: np.ndarray) -> np.ndarray:
    """Return gamma of each channel, from 1 for the most important to 2^4, (n,).

    Args:
        scores: importance of the channels of one group that stay, (n,).
    """
    spread = float(scores.max() - scores.min())
    share = (scores.max() - scores) / spread if spread > 0 else np.zeros_like(scores)
    return np.asarray(2 ** (SPREAD * share))
