"""How an overall sparsity is shared out among layers."""

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def erdos_renyi_kernel(shapes: Mapping[Name, tuple[int, ...]], sparsity: float) -> dict[Name, float]:
    """Sparsity per kernel such that all kernels together have `sparsity`, large kernels the most.

    The density of a kernel is proportional to (sum of its dimensions) / (product of its dimensions), at most
    1: Erdős-Rényi-Kernel, Evci et al. 2020 (arXiv:1911.11134), section 3. A kernel of 3x3x64x64 so loses a
    larger share than the first convolution or a 1x1 shortcut, which have few weights to spare.

    Args:
        shapes: kernel shapes by name.
        sparsity: overall share of zeros, 0 <= sparsity < 1.

    Returns:
        Sparsity by name, each 0 <= s < 1.
    """
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    score = {name: sum(shape) for name, shape in shapes.items()}
    dense: set[Name] = set()
    while True:
        budget = (1 - sparsity) * sum(size.values()) - sum(size[name] for name in dense)
        scale = budget / sum(score[name] for name in shapes if name not in dense)
        too_dense = {name for name in shapes if name not in dense and scale * score[name] >= size[name]}
        if not too_dense:
            break
        dense |= too_dense
        if len(dense) == len(shapes):
            break
    return {name: 0.0 if name in dense else 1 - scale * score[name] / size[name] for name in shapes}
