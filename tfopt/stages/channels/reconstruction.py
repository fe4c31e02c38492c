"""Least squares in place of training: what reads channels that are gone makes up for them with those that stay.

He, Zhang and Sun 2017, arXiv:1707.06168, section 3.1: the kernel W' minimizes ||Y - X' W'||^2 over samples, where Y is
what the layer gave before, from its inputs in the whole model, and X' are its inputs in the model with fewer channels.
"""

from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, flatten
from tfopt.surgery.channels.groups import Channels
from tfopt.surgery.channels.trace import Slot

POSITIONS = 10
"""Places of each sample that are drawn, as in the paper."""
RIDGE = 1e-3
"""Weight of the squared change of the kernel, relative to the mean square of the inputs."""
ROWS = 20_000
"""Most equations of one layer."""


def reconstruct(model: Any, whole: Any, channels: Channels, removed: list[int], samples: Any) -> int:
    """Solve the kernels of all layers that read channels which are gone, in calling order, in place.

    Args:
        model: flat tf_keras, the channels `removed` at zero.
        whole: the same model before.
        channels: of `model`.
        removed: roots.
        samples: inputs.

    Returns:
        The number of kernels that were solved. Layers with a kernel that is no product of patches, such as recurrent
        ones, stay as they are.
    """
    kept = channels.kept(removed)
    solved = 0
    for call in channels.trace.graph.calls:
        slot = _read(channels, call)
        if slot is None or kept(slot.atoms).all() or not kept(slot.atoms).any():
            continue
        _solve(model, whole, call, kept(slot.atoms), samples)
        solved += 1
    return solved


def _read(channels: Channels, call: Call) -> Slot | None:
    """Return the slot of the input channels of a Dense layer or a convolution without groups; None for other calls."""
    facts = facts_of(call.leaf.layer)
    if facts.family not in ("dense", "convolution") or getattr(call.leaf.layer, "groups", 1) != 1:
        return None
    kernel = call.leaf.layer.kernel
    index = next(number for number, weight in enumerate(call.leaf.layer.weights) if weight is kernel)
    slots = channels.slots_of(call.leaf.name).get(index, [])
    return next((slot for slot in slots if slot.axis == len(kernel.shape) - 2), None)


def _solve(model: Any, whole: Any, call: Call, stay: np.ndarray, samples: Any) -> None:
    name = call.leaf.name
    layer, before = model.get_layer(name), whole.get_layer(name)
    old = np.asarray(before.kernel, np.float64)
    rng = np.random.default_rng(0)
    patches = _patches(layer, _input_of(model, name, samples))
    reference = _patches(before, _input_of(whole, name, samples))
    rows = rng.permutation(len(patches))[: min(ROWS, POSITIONS * len(flatten(samples)[0]))]
    size, columns = int(np.prod(old.shape[:-2])), old.shape[-2]
    wanted = reference[rows] @ old.reshape(size * columns, -1)
    living = np.tile(stay, size)
    x, start = patches[rows][:, living], old.reshape(size * columns, -1)[living]
    gram = x.T @ x
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    means = x.mean(axis=0), wanted.mean(axis=0)
    if layer.bias is not None:  # the bias takes the difference of the means
        gram -= len(x) * np.outer(means[0], means[0])
        target = x.T @ wanted - len(x) * np.outer(means[0], means[1])
    else:
        target = x.T @ wanted
    found = np.linalg.solve(gram + ridge, target + ridge @ start)
    kernel = np.zeros_like(old).reshape(size * columns, -1)
    kernel[living] = found
    layer.kernel.assign(kernel.reshape(old.shape) * (np.asarray(layer.kernel).any(axis=tuple(range(old.ndim - 1)))))
    if layer.bias is not None:
        alive = np.asarray(layer.kernel).any(axis=tuple(range(old.ndim - 1)))
        layer.bias.assign((np.asarray(before.bias) + means[1] - means[0] @ found) * alive)


def _input_of(model: Any, name: str, samples: Any) -> np.ndarray:
    """Return the input of a layer."""
    from tfopt.base.keras_compat import tf_keras

    tensor = model.get_layer(name).input
    probe = tf_keras().Model(model.inputs, tensor)
    return np.asarray(probe.predict(samples, verbose=0))


def _patches(layer: Any, inputs: np.ndarray) -> np.ndarray:
    """Return the values that a kernel is multiplied with, (places, numbers), float64."""
    import tensorflow as tf

    if facts_of(layer).family == "dense":
        return inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
    rank = len(layer.kernel_size)
    flat = inputs[:, :, None] if rank == 1 else inputs
    sizes = [
        (1, *each, *((1,) if rank == 1 else ()), 1) for each in (layer.kernel_size, layer.strides, layer.dilation_rate)
    ]
    if layer.padding == "causal":
        flat = np.pad(flat, ((0, 0), (layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0), (0, 0), (0, 0)))
    padding = "VALID" if layer.padding == "causal" else layer.padding.upper()
    found = tf.image.extract_patches(tf.convert_to_tensor(flat), *sizes, padding)
    return np.asarray(found, np.float64).reshape(-1, found.shape[-1])
