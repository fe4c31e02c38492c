"""Learn the rounding of one kernel: the optimization of AdaRound (Nagel et al. 2020, arXiv:2004.10568, eq. 21-25)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.stages.quantize.weight_ranges import levels, on_grid

_ZETA, _GAMMA = 1.1, -0.1  # the rectified sigmoid is stretched to these values before clipping
_BETAS = 20.0, 2.0  # the exponent of the regularizer, from the end of the warm-up to the last iteration
_WARM_UP = 0.2
_WEIGHT = 5.0  # of the regularizer, relative to an error per channel that starts near 1
_RATE = 3e-2  # of Adam
_BATCH = 2048


@dataclass(frozen=True, eq=False)
class Problem:
    """One kernel with its inputs: output = relu(gain * (inputs times kernel) + offset).

    Attributes:
        inputs: float32 (rows, kernel positions, input channels), from rounded layers.
        exact_inputs: the same from float layers.
        kernel: float32 (kernel positions, input channels, outputs); the outputs are of all input channels together or,
            if `depthwise`, of each.
        steps: of the grid, of the same shape.
        bits: of the grid.
        depthwise: whether each input channel has separate outputs.
        gain: float64, per output channel.
        offset: float64, per output channel.
        ceiling: upper limit of the ReLU, infinity for an ordinary one; None for no ReLU.
        order: a random order of the rows.
    """

    inputs: np.ndarray
    exact_inputs: np.ndarray
    kernel: np.ndarray
    steps: np.ndarray
    bits: int
    depthwise: bool
    gain: np.ndarray
    offset: np.ndarray
    ceiling: float | None
    order: np.ndarray

    def outputs(self, inputs: Any, kernel: Any) -> Any:
        """Return the outputs, (rows, output channels), as a tensor."""
        import tensorflow as tf

        if self.depthwise:
            product = tf.reshape(tf.einsum("rkc,kcm->rcm", inputs, kernel), (-1, len(self.gain)))
        else:
            product = tf.matmul(_flat(inputs), tf.reshape(kernel, (-1, len(self.gain))))
        values = product * self.gain.astype(np.float32) + self.offset.astype(np.float32)
        return values if self.ceiling is None else tf.clip_by_value(values, 0.0, self.ceiling)

    def errors(self, targets: np.ndarray, integers: np.ndarray) -> np.ndarray:
        """Return the mean squared error per output channel for the rounded kernel `integers`."""
        kernel = (self.steps * integers).astype(np.float32)
        pieces = [self.outputs(piece, kernel).numpy() for piece in _pieces(self.inputs)]
        return np.asarray(((np.concatenate(pieces) - targets) ** 2).mean(axis=0, dtype=np.float64))

    def channelwise(self, values: np.ndarray) -> np.ndarray:
        """Reshape one value per output channel to the shape of the kernel's last axes."""
        return values.reshape(self.kernel.shape[-2:] if self.depthwise else (1, -1))


def solve(problem: Problem, iterations: int) -> tuple[np.ndarray, float, float]:
    """Learn the rounding of a kernel, separately for each output channel.

    A channel that learning does not improve is rounded to nearest.

    Returns:
        The integers, int8 of the kernel's shape; the mean squared error of the outputs when rounded to nearest; and
        that of the learned rounding.
    """
    pieces = _pieces(problem.exact_inputs)
    targets = np.concatenate([problem.outputs(piece, problem.kernel).numpy() for piece in pieces])
    nearest = on_grid(problem.kernel, problem.steps, problem.bits)
    before = problem.errors(targets, nearest)
    learned = _learned(problem, targets, before, iterations)
    after = problem.errors(targets, learned)
    better = problem.channelwise(after < before)
    return np.where(better, learned, nearest), float(before.mean()), float(np.minimum(after, before).mean())


def _learned(problem: Problem, targets: np.ndarray, scale: np.ndarray, iterations: int) -> np.ndarray:
    import tensorflow as tf

    top = levels(problem.bits)
    ratio = problem.kernel.astype(np.float64) / problem.steps
    floor, steps = tf.constant(np.floor(ratio), tf.float32), tf.constant(problem.steps, tf.float32)
    choice = tf.Variable(_logit(ratio - np.floor(ratio)), dtype=tf.float32)
    optimizer = tf_keras().optimizers.Adam(_RATE)
    optimizer.build([choice])
    inputs, targets = tf.constant(problem.inputs[problem.order]), tf.constant(targets[problem.order])
    batch = min(_BATCH, len(problem.order))
    # Errors relative to those of rounding to nearest, so that all channels and layers have equal weight.
    weight = tf.constant(1 / (batch * np.maximum(scale, 1e-12 * max(scale.max(), 1e-30))), tf.float32)
    per_weight = _WEIGHT * len(problem.gain) / problem.kernel.size

    def step(start: Any, beta: Any, strength: Any) -> None:
        with tf.GradientTape() as tape:
            up = _rectified(choice)
            kernel = steps * tf.clip_by_value(floor + up, -top, top)
            error = problem.outputs(inputs[start : start + batch], kernel) - targets[start : start + batch]
            undecided = tf.reduce_sum(1 - tf.abs(2 * up - 1) ** beta)
            loss = tf.reduce_sum(tf.reduce_sum(error**2, axis=0) * weight) + strength * undecided
        optimizer.apply_gradients([(tape.gradient(loss, choice), choice)])

    traced_step = tf.function(step, reduce_retracing=True)
    for number in range(iterations):
        done = max(number / iterations - _WARM_UP, 0) / (1 - _WARM_UP)
        beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * (1 - done)
        strength = per_weight if number >= _WARM_UP * iterations else 0.0
        start = number * batch % max(len(problem.order) - batch + 1, 1)
        traced_step(tf.constant(start), tf.constant(beta, tf.float32), tf.constant(strength, tf.float32))
    up = np.asarray(_rectified(choice)) >= 0.5
    return np.asarray(np.clip(np.floor(ratio) + up, -top, top)).astype(np.int8)


def _rectified(choice: Any) -> Any:
    """Return how far to round up, from 0 to 1 (eq. 23)."""
    import tensorflow as tf

    return tf.clip_by_value(tf.sigmoid(choice) * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)


def _logit(up: np.ndarray) -> np.ndarray:
    """Return the inverse of `_rectified`."""
    share = (up - _GAMMA) / (_ZETA - _GAMMA)
    return np.asarray(np.log(share / (1 - share)))


def _flat(inputs: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(inputs, (-1, inputs.shape[1] * inputs.shape[2]))


def _pieces(inputs: np.ndarray) -> list[np.ndarray]:
    return [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
