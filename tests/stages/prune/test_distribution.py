"""The distribution of sparsity over kernels, against the formula of Evci et al. 2020 worked out by hand."""

import math

import pytest

from tfopt.stages.prune.distribution import erdos_renyi_kernel


def test_two_kernels_by_hand():
    # sums 3+3+10+10=26 and 3+3+10+20=36, sizes 900 and 1800; half of 2700 weights remain: 1350 = s * (26 + 36),
    # s = 21.774; densities 21.774*26/900 = 0.62903 and 21.774*36/1800 = 0.43548.
    shared = erdos_renyi_kernel({"a": (3, 3, 10, 10), "b": (3, 3, 10, 20)}, 0.5)
    assert shared == {"a": pytest.approx(1 - 0.629032, abs=1e-6), "b": pytest.approx(1 - 0.435484, abs=1e-6)}


def test_a_kernel_too_small_to_prune_stays_dense_and_the_others_make_up_for_it():
    # (1,1,4,4) would get the density 1.5 * 10 / 16 > 1, so it stays dense, and b takes all of the sparsity.
    shared = erdos_renyi_kernel({"a": (1, 1, 4, 4), "b": (3, 3, 10, 20)}, 0.9)
    assert shared["a"] == 0.0
    assert shared["b"] == pytest.approx(0.9 * 1816 / 1800)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8, 0.95])
def test_all_kernels_together_have_the_sparsity(sparsity):
    shapes = {
        "first": (3, 3, 3, 16),
        "mid": (3, 3, 16, 32),
        "short": (1, 1, 16, 32),
        "last": (3, 3, 64, 64),
        "fc": (64, 10),
    }
    shared = erdos_renyi_kernel(shapes, sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    zeros = sum(shared[name] * size for name, size in sizes.items())
    assert zeros == pytest.approx(sparsity * sum(sizes.values()))
    assert all(0 <= share < 1 for share in shared.values())
