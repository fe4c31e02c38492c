"""Signals end a process at once, or after the step that it is in."""

import ctypes
import os
import signal
import threading
import time

import pytest

from tfopt.base import interruption
from tfopt.base.interruption import Interrupted


@pytest.fixture(autouse=True)
def _heeded():
    """Heed SIGINT, which a shell lets its jobs in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_that_native_code_turns_into_another_error():
    """As TensorFlow does with what is raised while it calls Python."""

    def native():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except BaseException:
            raise RuntimeError("error_already_set") from None

    with pytest.raises(Interrupted) as raised, interruption.ending_on_signals():
        native()
    assert raised.value.code == 143
    with pytest.raises(RuntimeError), interruption.ending_on_signals():  # no signal came
        raise RuntimeError("another")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_at_once(number, code):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, interruption.ending_on_signals():
        os.kill(os.getpid(), number)
        pytest.fail("this must not run")
    assert caught.value.code == code
    assert isinstance(caught.value, KeyboardInterrupt)  # what cleans up after Ctrl-C does so after SIGTERM
    assert signal.getsignal(number) is before


def test_work_that_looks_itself_ends_where_it_looks():
    done = []
    with pytest.raises(Interrupted, match="after 1") as caught, interruption.ending_on_signals(), interruption.held():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(interruption.is_asked())
        interruption.end_if_asked("after 1")
    assert done == [True] and caught.value.code == 143
    assert not interruption.is_asked()


def test_work_that_never_looks_ends_with_its_block():
    done = []
    with pytest.raises(Interrupted), interruption.ending_on_signals():
        with interruption.held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
        done.append(2)
    assert done == [1]


def test_a_second_signal_does_not_wait():
    with pytest.raises(Interrupted), interruption.ending_on_signals(), interruption.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("this must not run")
    assert not interruption.is_asked()


def test_a_request_is_overdue_after_its_patience(monkeypatch):
    clock = iter([100.0, 104.9, 105.1])
    monkeypatch.setattr(interruption.time, "monotonic", lambda: next(clock))
    with pytest.raises(Interrupted), interruption.ending_on_signals(), interruption.held():
        assert not interruption.is_overdue()  # nobody asked, so nobody looks at the clock
        os.kill(os.getpid(), signal.SIGTERM)
        assert not interruption.is_overdue()
        assert interruption.is_overdue()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption.ending_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_signals():
    found = []

    def work():
        with interruption.ending_on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_handlers_replaced_in_c_are_taken_back():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(signal.SIG_IGN))
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == []
        interruption.take_back_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("last", [True, False])
def test_a_signal_after_the_work_is_done_but_for_a_moment(last):
    done = []

    def work():
        with interruption.finishing(last=last):
            interruption.finish()
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the rest")
        done.append("what follows")

    with interruption.ending_on_signals():
        if last:
            work()
        else:
            with pytest.raises(Interrupted) as caught:
                work()
            assert caught.value.code == 143
    assert done == ["the rest", *["what follows"] * last]
    assert not interruption.is_asked()


def test_a_second_signal_ends_even_what_is_nearly_done():
    with pytest.raises(Interrupted) as caught, interruption.ending_on_signals(), interruption.finishing():
        interruption.finish()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("this must not run")
    assert caught.value.finishing


def test_without_a_block_that_asks_nothing_waits():
    with pytest.raises(Interrupted) as caught, interruption.ending_on_signals():
        interruption.finish()
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("this must not run")
    assert not caught.value.finishing
