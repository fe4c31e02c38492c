"""Refit layers that read removed channels on the remaining ones, by least squares, instead of training.

He, Zhang and Sun 2017, arXiv:1707.06168, section 3.1: the kernel W' minimizes ||Y - X' W'||^2 over samples, where Y is
what the layer gave before, from its inputs in the whole model, and X' are its inputs in the model with fewer channels.
"""

from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, flatten
from tfopt.stages.channels.inputs import rows_of
from tfopt.surgery.channels.groups import Channels
from tfopt.surgery.channels.trace import Slot, index_of

POSITIONS = 10
"""Places of each sample that are drawn, as in the paper."""
RIDGE = 1e-3
"""Weight of the squared change of the kernel, relative to the mean square of the inputs."""
AT_ONCE = 16
"""Samples whose windows are in memory at a time."""


def reconstruct(model: Any, whole: Any, channels: Channels, removed: list[int], samples: Any) -> int:
    """Solve the kernels of all layers that read channels which are gone, in calling order, in place.

    Args:
        model: flat tf_keras, the channels `removed` at zero.
        whole: the same model before.
        channels: of `model`.
        removed: roots.
        samples: inputs.

    Returns:
        The number of kernels that were solved. Other layers, such as recurrent ones, are left unchanged.
    """
    kept, found = channels.kept(removed), dict[str, np.ndarray]()
    for call in channels.trace.graph.calls:  # in their order; a layer that is called twice once, on all its inputs
        slot = _read(channels, call)
        if slot is not None and not kept(slot.atoms).all() and kept(slot.atoms).any():
            found[call.leaf.name] = kept(slot.atoms)
    for name, stay in found.items():
        _solve(model, whole, name, stay, samples)
    return len(found)


def _read(channels: Channels, call: Call) -> Slot | None:
    """Return the slot of the input channels of a Dense layer or a convolution without groups; None for other calls."""
    facts = facts_of(call.leaf.layer)
    if facts.family not in ("dense", "convolution") or getattr(call.leaf.layer, "groups", 1) != 1:
        return None
    if len(getattr(call.leaf.layer, "kernel_size", ())) > 2:
        return None
    kernel = call.leaf.layer.kernel
    slots = channels.slots_of(call.leaf.name).get(index_of(call.leaf, kernel), [])
    return next((slot for slot in slots if slot.axis == len(kernel.shape) - 2), None)


def _solve(model: Any, whole: Any, name: str, stay: np.ndarray, samples: Any) -> None:
    layer, before = model.get_layer(name), whole.get_layer(name)
    old = np.asarray(before.kernel, np.float64)
    size, columns = int(np.prod(old.shape[:-2])), old.shape[-2]
    living = np.tile(stay, size)
    flat = old.reshape(size * columns, -1)
    x = _patches(model, name, samples)[:, living]
    wanted = _patches(whole, name, samples) @ flat
    gram, target = x.T @ x, x.T @ wanted
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    if not np.trace(gram):
        return  # nothing comes in
    means = x.mean(axis=0), wanted.mean(axis=0)
    if layer.bias is not None:  # the bias takes the difference of the means
        gram -= len(x) * np.outer(means[0], means[0])
        target -= len(x) * np.outer(means[0], means[1])
    found = np.linalg.solve(gram + ridge, target + ridge @ flat[living])
    alive = np.asarray(layer.kernel).any(axis=tuple(range(old.ndim - 1)))
    kernel = np.zeros_like(flat)
    kernel[living] = found
    layer.kernel.assign(kernel.reshape(old.shape) * alive)
    if layer.bias is not None:
        layer.bias.assign((np.asarray(before.bias) + means[1] - means[0] @ found) * alive)


def _patches(model: Any, name: str, samples: Any) -> np.ndarray:
    """Return what a kernel is multiplied with at a few places of each sample, (places, numbers), float64."""
    layer, rng, found = model.get_layer(name), np.random.default_rng(0), []
    nodes = range(len(layer.inbound_nodes))
    probe = tf_keras().Model(model.inputs, [layer.get_input_at(node) for node in nodes])
    count = len(flatten(samples)[0])
    at_once = model.inputs[0].shape[0] or AT_ONCE
    for rows in (slice(start, start + at_once) for start in range(0, count - count % at_once or count, at_once)):
        for inputs in map(np.asarray, flatten(probe(rows_of(samples, rows), training=False))):
            windows = inputs if facts_of(layer).family == "dense" else _windows(layer, inputs)
            windows = windows.reshape(len(inputs), -1, windows.shape[-1])
            places = rng.integers(0, windows.shape[1], (len(inputs), min(POSITIONS, windows.shape[1])))
            found.append(np.take_along_axis(windows, places[..., None], axis=1).reshape(-1, windows.shape[-1]))
    return np.concatenate(found).astype(np.float64)


def _windows(layer: Any, inputs: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    rank = len(layer.kernel_size)
    flat = inputs[:, :, None] if rank == 1 else inputs
    sizes = [
        (1, *each, *((1,) if rank == 1 else ()), 1) for each in (layer.kernel_size, layer.strides, layer.dilation_rate)
    ]
    if layer.padding == "causal":
        flat = np.pad(flat, ((0, 0), (layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0), (0, 0), (0, 0)))
    padding = "VALID" if layer.padding == "causal" else layer.padding.upper()
    return np.asarray(tf.image.extract_patches(tf.convert_to_tensor(flat), *sizes, padding))
