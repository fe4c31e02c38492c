"""Promises that stages make about kernels, verified on the Keras model and again in the `.tflite`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np
from typing_extensions import override

from tfopt.base import weight_statistics


@dataclass(frozen=True)
class Promise(ABC):
    """A property of one kernel: of the weight `weight` (see `kernels.Kernel.name`) in the layer `layer`.

    Examples:
        >>> promise = tfopt.extend.Sparsity("head", at_least=0.5)
        >>> isinstance(promise, tfopt.extend.Promise), promise.place
        (True, "layer 'head'")
    """

    layer: str
    weight: str = field(default="kernel", kw_only=True)

    @property
    def place(self) -> str:
        """The kernel's name for messages: "layer 'head'", "layer 'lstm', recurrent_kernel"."""
        return f"layer '{self.layer}'" + ("" if self.weight == "kernel" else f", {self.weight}")

    @abstractmethod
    def broken(self, values: np.ndarray, channel_axis: int) -> str | None:
        """Return None if a kernel keeps the promise, else what is wrong, e.g. 'sparsity 0.48, promised 0.50'.

        Args:
            values: of the kernel.
            channel_axis: the axis of its output channels.
        """

    def after_folding(self) -> "Promise":
        """Return the promise that still holds after BatchNorm is folded in, which scales each channel."""
        return self


@dataclass(frozen=True)
class Sparsity(Promise):
    """At least `at_least` of the weights are exactly zero.

    Examples:
        >>> kernel = np.array([[0.0, 1.0], [2.0, 3.0]])
        >>> tfopt.extend.Sparsity("head", at_least=0.75).broken(kernel, channel_axis=1)
        'sparsity 0.2500, promised 0.7500'
    """

    at_least: float

    @override
    def broken(self, values: np.ndarray, channel_axis: int) -> str | None:
        del channel_axis
        # TF-MOT rounds the number of kept weights, keeps at least one, and stores the target as float32.
        found = np.count_nonzero(values == 0)
        rounding = 0.5 + values.size * float(np.finfo(np.float32).eps)
        if found >= min(self.at_least * values.size - rounding, values.size - 1):
            return None
        return f"sparsity {found / values.size:.4f}, promised {self.at_least:.4f}"


@dataclass(frozen=True)
class Clusters(Promise):
    """At most `at_most` different values, in the whole kernel or in each output channel.

    Examples:
        >>> kernel = np.array([[0.0, 1.0], [2.0, 3.0]])
        >>> tfopt.extend.Clusters("head", at_most=2).broken(kernel, channel_axis=1)
        '4 different weights in the kernel, promised at most 2'
        >>> tfopt.extend.Clusters("head", at_most=2, per_channel=True).broken(kernel, channel_axis=1)
    """

    at_most: int
    per_channel: bool = False

    @override
    def broken(self, values: np.ndarray, channel_axis: int) -> str | None:
        found = weight_statistics.unique_weights(values, axis=channel_axis if self.per_channel else None)
        if found <= self.at_most:
            return None
        where = "in one output channel" if self.per_channel else "in the kernel"
        return f"{found} different weights {where}, promised at most {self.at_most}"

    @override
    def after_folding(self) -> "Clusters":
        return replace(self, per_channel=True)


@dataclass(frozen=True)
class MByN(Promise):
    """At least m zeros in every n consecutive input channels (Nvidia's 2:4 pattern and similar ones).

    Examples:
        >>> kernel = np.array([[0.0, 1.0], [0.0, 0.0], [2.0, 3.0], [4.0, 0.0]])
        >>> tfopt.extend.MByN("head", m=2, n=4).broken(kernel, channel_axis=1)
    """

    m: int
    n: int

    @override
    def broken(self, values: np.ndarray, channel_axis: int) -> str | None:
        # The pattern runs along the inputs of an output channel, so put the output channels last, as Keras does.
        kernel = np.moveaxis(values, channel_axis, -1)
        if weight_statistics.m_by_n_holds(kernel, self.m, self.n):
            return None
        return f"fewer than {self.m} zeros in {self.n} consecutive weights"
