"""Verify in the written `.tflite` what stages promised about kernels."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tfopt.errors import PromiseError
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.kernels.rules import Key
from tfopt.tflite.prove.kernels import FileKernel, find_kernels
from tfopt.tflite.read import LiteModel


def verify_promises(
    lite: LiteModel,
    flat_model: Any,
    promises: Sequence[Promise],
    *,
    trained_ranges: bool | Collection[str],
    places: Mapping[Key, FileKernel] | None = None,
) -> list[str]:
    """Verify in the file the promises about the kernels of `flat_model`.

    Args:
        lite: the file.
        flat_model: the model whose kernels the promises are about.
        promises: must hold in each tensor that stores the kernel.
        trained_ranges: whether the full promise must hold, for all layers or for the named ones; see below.
        places: the kernels in the file, if known; see `promised_kernels`.

    Returns:
        Notes on promises that hold only per output channel: the converter folds BatchNorm into the kernels, and with a
        separate scale per channel, equal weights get different values. Training with `Quantize` avoids that.

    Raises:
        PromiseError: a kernel is not in the file, or a promise is broken; names layer, kernel and tensor.
    """
    if not promises:
        return []
    found = promised_kernels(lite, flat_model, promises) if places is None else places
    notes = []
    for promise in promises:
        strict = trained_ranges if isinstance(trained_ranges, bool) else promise.layer in trained_ranges
        for wrong, kernel in _broken(promise, found[promise.layer, promise.weight]):
            weaker = promise.after_folding()
            if strict or weaker == promise or weaker.broken(kernel.values, 0):
                raise PromiseError(
                    f"The exported file breaks a promise: {promise.place}, tensor '{kernel.name}': {wrong}."
                )
            where = promise.layer if promise.weight == "kernel" else f"{promise.layer}, {promise.weight}"
            notes.append(
                f"{where}: the promise is kept within each output channel of the file, but not over all channels, "
                f"because their scales differ ({wrong})"
            )
    return list(dict.fromkeys(notes))


def promised_kernels(lite: LiteModel, flat_model: Any, promises: Sequence[Promise]) -> dict[Key, FileKernel]:
    """Find the kernels of `flat_model` that the promises are about in the file.

    Raises:
        PromiseError: a kernel is not in the file.
    """
    promised = {promise.layer for promise in promises}
    keys = {(promise.layer, promise.weight) for promise in promises}
    return find_kernels(lite, [layer for layer in flat_model.layers if layer.name in promised], keys)


def _broken(promise: Promise, kernel: FileKernel) -> Iterator[tuple[str, FileKernel]]:
    """Yield what is wrong in each place that stores the kernel, with the place."""
    for place in kernel.everywhere:
        if wrong := promise.broken(place.values, 0):
            yield wrong, place
