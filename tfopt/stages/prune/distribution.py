"""Distribute an overall sparsity over kernels."""

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def erdos_renyi_kernel(shapes: Mapping[Name, tuple[int, ...]], sparsity: float) -> dict[Name, float]:
    """Return a sparsity per kernel so that all kernels together have `sparsity`, with the highest for large kernels.

    The density of a kernel is proportional to (sum of its dimensions) / (product of its dimensions), capped at 1:
    Erdős-Rényi-Kernel, Evci et al. 2020 (arXiv:1911.11134), section 3. Thus a 3x3x64x64 kernel loses a larger share
    than the first convolution or a 1x1 shortcut, which have few weights to spare.

    Args:
        shapes: kernel shapes by name.
        sparsity: overall fraction of zeros, 0 <= sparsity < 1.

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
