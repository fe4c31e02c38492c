"""Attributes replaced for a block, for all threads or for one."""

import threading

import pytest

from tfopt.base.overrides import override_attributes, override_in_thread


class Layer:
    scale = 3

    def __init__(self) -> None:
        self.kernel = "variable"

    def call(self) -> str:
        return self.kernel


@pytest.mark.parametrize("override", [override_attributes, override_in_thread])
def test_values_hold_within_the_block(override):
    layer = Layer()
    with override([(layer, "kernel", "rounded"), (layer, "scale", 4), (layer, "new", 5)]):
        assert (layer.kernel, layer.call(), layer.scale, layer.new) == ("rounded", "rounded", 4, 5)
        with override([(layer, "kernel", "inner")]):
            assert layer.kernel == "inner"
        assert layer.kernel == "rounded"
    assert (layer.kernel, layer.scale, hasattr(layer, "new")) == ("variable", 3, False)
    assert vars(layer) == {"kernel": "variable"}


@pytest.mark.parametrize("override", [override_attributes, override_in_thread])
def test_values_end_with_an_error(override):
    layer = Layer()
    with pytest.raises(ValueError, match="boo"), override([(layer, "kernel", "rounded")]):
        raise ValueError("boo")
    assert layer.kernel == "variable"


def test_threads_that_take_turns_within_the_block_see_their_own_values():
    """As the replicas of tf.distribute do: the second one begins, and ends, while the first one is in its block."""
    layer, seen = Layer(), {}
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with override_in_thread([(layer, "kernel", "of the first")]):
            inside.set()
            go_on.wait(10)
            seen["first"] = layer.kernel

    def second() -> None:
        inside.wait(10)
        seen["before"] = layer.kernel
        with override_in_thread([(layer, "kernel", "of the second")]):
            go_on.set()
            one.join(10)
            seen["second"] = layer.kernel

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    one.join(10)
    other.join(10)
    assert seen == {"first": "of the first", "before": "variable", "second": "of the second"}
    assert layer.kernel == "variable"


def test_an_object_keeps_its_kind_and_can_be_changed_outside_the_block():
    layer = Layer()
    with override_in_thread([(layer, "kernel", "rounded"), (layer, "call", lambda: "replaced")]):
        assert layer.call() == "replaced"
    assert isinstance(layer, Layer)
    assert type(layer).__name__ == "Layer"
    layer.kernel = "other"
    assert layer.call() == "other"
    del layer.kernel
    with pytest.raises(AttributeError, match="'Layer' object has no attribute 'kernel'"):
        _ = layer.kernel
