"""Promises on kernels whose stored values are given."""

import numpy as np
import pytest

from tfopt.errors import PromiseError
from tfopt.stages.kernels.promise import Clusters, Sparsity
from tfopt.tflite.prove.kernels import FileKernel
from tfopt.tflite.prove.promises import verify_promises
from tfopt.tflite.read import Tensor, Weight


def place(*tensors, copies=()):
    """A kernel of one part with the stored values `tensors`, output channels first."""
    parts = []
    for number, values in enumerate(tensors):
        values = np.array(values, np.int8)
        tensor = Tensor(number, f"tensor {number}", values.shape, "int8", (1.0,), (0,), None, True, values.size)
        parts.append(Weight(tensor, "FULLY_CONNECTED", values, values.astype("f"), 0))
    return FileKernel(tuple(parts), (0,) * len(parts), copies=copies)


def verified(kernel, promise, trained_ranges):
    key = (promise.layer, promise.weight)
    return verify_promises(None, None, [promise], trained_ranges=trained_ranges, places={key: kernel})


TWO_EACH = place([[0, 1, 1], [0, 2, 2]])  # three values, two in each channel


def test_nothing_is_promised():
    assert verify_promises(None, None, [], trained_ranges=True) == []


@pytest.mark.parametrize("strict", [True, False, {"layer"}, set(), {"another"}])
def test_promises_that_hold(strict):
    assert verified(TWO_EACH, Clusters("layer", 3), strict) == []
    assert verified(place([[1, 1, 1], [2, 2, 2]]), Clusters("layer", 1, per_channel=True), strict) == []


@pytest.mark.parametrize("strict", [False, set(), {"another"}])
def test_what_folding_weakens_is_a_note(strict):
    assert verified(TWO_EACH, Clusters("layer", 2), strict) == [
        "layer: the promise is kept within each output channel of the file, but not over all channels, because their "
        "scales differ (3 different weights in the kernel, promised at most 2)"
    ]
    for weight in ("recurrent_kernel", "depthwise_kernel"):
        (note,) = verified(TWO_EACH, Clusters("layer", 2, weight=weight), strict)
        assert note.startswith(f"layer, {weight}: the promise is kept within")


@pytest.mark.parametrize("strict", [True, {"layer"}, {"another", "layer"}])
def test_what_was_trained_for_the_ranges_of_the_file_holds_in_full(strict):
    with pytest.raises(PromiseError) as caught:
        verified(TWO_EACH, Clusters("layer", 2), strict)
    assert str(caught.value) == (
        "The exported file breaks a promise: layer 'layer', tensor 'tensor 0': 3 different weights in the kernel, "
        "promised at most 2."
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "promise", [Clusters("layer", 1), Sparsity("layer", 0.9), Clusters("layer", 1, per_channel=True)]
)
def test_what_is_broken_in_each_form(strict, promise):
    with pytest.raises(PromiseError, match="breaks a promise: layer 'layer', tensor 'tensor 0': "):
        verified(TWO_EACH, promise, strict)


def test_every_copy_is_judged():
    good, bad = place([[0, 1, 0], [0, 1, 1]]), place([[5, 6, 7], [0, 6, 7]])
    promise = Clusters("layer", 2)
    assert verified(place([[0, 1, 0]], copies=(good,)), promise, True) == []
    with pytest.raises(PromiseError, match="4 different weights"):
        verified(place([[0, 1, 0]], copies=(good, bad)), promise, False)


def test_equal_notes_are_said_once():
    copies = (TWO_EACH, place([[0, 1, 1], [3, 2, 2]]))
    notes = verified(place([[0, 1, 1], [0, 2, 2]], copies=copies), Clusters("layer", 2), False)
    assert [note.partition("(")[2] for note in notes] == [
        f"{number} different weights in the kernel, promised at most 2)" for number in (3, 4)
    ]


def test_channels_of_parts_are_joined():
    with pytest.raises(PromiseError, match="tensor 'tensor 0, tensor 1': 3 different weights"):
        verified(place([[0, 1, 1]], [[2, 2, 1]]), Clusters("layer", 2), True)


def test_promises_about_several_kernels_are_about_each():
    places = {("a", "kernel"): place([[0, 0, 1]]), ("b", "kernel"): place([[1, 1, 0]])}
    promises = [Sparsity("a", 2 / 3), Clusters("b", 2), Clusters("a", 2)]
    assert verify_promises(None, None, promises, trained_ranges=True, places=places) == []
    with pytest.raises(PromiseError, match="layer 'b'"):
        verify_promises(None, None, [*promises, Sparsity("b", 2 / 3)], trained_ranges={"a"}, places=places)
