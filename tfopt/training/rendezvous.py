"""Wait until all workers are there, in Python: TensorFlow would wait in native code, which no signal ends."""

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tfopt.base.words import counted
from tfopt.errors import TfoptError
from tfopt.training.cluster import VARIABLE, Cluster

PATIENCE = 3600.0
"""Seconds after which a worker that was not seen ends the others."""
SAID_AFTER = 5.0
_PAUSE = 0.2
_ANSWER = 2.0  # seconds for one attempt to connect


def meet(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Return once all workers of `cluster` listen at their addresses; meanwhile this one listens at its own.

    A worker that has seen all others closes its address and gives it to TensorFlow, which listens there soon.

    Args:
        cluster: the workers.
        say: called once with the addresses that are waited for, if that takes a while.

    Raises:
        TfoptError: the address of this worker is in use, or another one is not there within `PATIENCE`.
    """
    missing = [each for number, each in enumerate(cluster.addresses) if number != cluster.worker]
    began, said = time.monotonic(), False
    with _listening(cluster.addresses[cluster.worker]):
        while missing := [each for each in missing if not _answers(each)]:
            waited = time.monotonic() - began
            if waited > PATIENCE:
                raise TfoptError(
                    f"No worker listens at {', '.join(missing)} after {waited / 60:.0f} minutes. Start the same "
                    f"command there, and check the addresses in {VARIABLE} and the firewalls between the machines."
                )
            if waited > SAID_AFTER and not said:
                say(f"waiting for {counted(len(missing), 'worker')}: {', '.join(missing)}")
                said = True
            time.sleep(_PAUSE)


@contextmanager
def _listening(address: str) -> Iterator[None]:
    """Hold the port of `address` within this block, and listen there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", _port(address)))
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                why = "another program listens at its port"
            else:
                why = f"its port cannot be used ({getattr(error, 'strerror', None) or error})"
            raise TfoptError(
                f"This worker is {address} in {VARIABLE}, but {why}. End that program, or change the port of this "
                "worker for all."
            ) from error
        listener.listen()
        yield


def _answers(address: str) -> bool:
    """Return whether something listens at `address`."""
    place = address.rpartition(":")[0].strip("[]"), _port(address)
    with contextlib.suppress(OSError, OverflowError), socket.create_connection(place, _ANSWER):
        return True
    return False


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    if not port.isdecimal():
        raise TfoptError(f"Expected a port number in the addresses of {VARIABLE}, got {address!r}.")
    return int(port)
