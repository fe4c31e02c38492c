"""Workers wait for each other where a signal ends the wait, and say for whom."""

import os
import signal
import socket
import threading

import pytest

from tfopt.base import interruption
from tfopt.errors import TfoptError
from tfopt.training import rendezvous
from tfopt.training.cluster import Cluster


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def clusters(number):
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(number))
    return [Cluster(number, worker, addresses) for worker in range(number)]


def test_all_go_on_once_the_last_one_is_there(monkeypatch):
    """One that has gone on listens again, as TensorFlow does for it."""
    monkeypatch.setattr(rendezvous, "SAID_AFTER", 0.0)
    said, gone, done = [], [], threading.Event()

    def work(cluster):
        rendezvous.meet(cluster, said.append)
        gone.append(cluster.worker)
        with rendezvous._listening(cluster.addresses[cluster.worker]):
            done.wait(30)

    first, second, third = clusters(3)
    threads = [threading.Thread(target=work, args=(each,)) for each in (first, second, third)]
    for thread in threads[:2]:
        thread.start()
    threads[0].join(1)
    assert gone == []
    threads[2].start()
    while len(gone) < 3 and threads[2].is_alive():
        threads[2].join(0.1)
    done.set()
    for thread in threads:
        thread.join(30)
    assert sorted(gone) == [0, 1, 2]
    assert any(third.addresses[2] in text for text in said)
    assert all(text.startswith("waiting for ") for text in said)


def test_an_address_in_use_is_said():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(TfoptError, match=f"This worker is {address} in TF_CONFIG, but another program listens"):
            rendezvous.meet(Cluster(2, 0, (address, "127.0.0.1:1")), print)


@pytest.mark.parametrize(
    ("address", "words"), [("a:b", "Expected a port number"), ("127.0.0.1:99999", "its port cannot be used")]
)
def test_a_port_that_is_none_is_said(address, words):
    with pytest.raises(TfoptError, match=words):
        rendezvous.meet(Cluster(2, 0, (address, "127.0.0.1:1")), print)


def test_who_never_comes_is_said(monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.0)
    first, _ = clusters(2)
    with pytest.raises(TfoptError, match=f"No worker listens at {first.addresses[1]} after 0 minutes"):
        rendezvous.meet(first, print)


def test_a_signal_ends_the_wait():
    first, _ = clusters(2)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(interruption.Interrupted), interruption.ending_on_signals():
        rendezvous.meet(first, print)
