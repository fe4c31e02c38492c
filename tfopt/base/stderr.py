"""Holds back what native libraries print to stderr on success, and shows it on failure."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_noise_held() -> Iterator[None]:
    """Within this block, what TensorFlow's and LiteRT's C++ code prints to stderr is kept back.

    It is printed after all when the block raises. Python's own `sys.stderr` is held too.
    """
    try:
        stderr = sys.__stderr__.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # no real stderr, e.g. in a notebook
        yield
        return
    sys.stderr.flush()
    saved = os.dup(stderr)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), stderr)
        try:
            yield
        except BaseException:
            _restore(saved, stderr)
            held.seek(0)
            os.write(stderr, held.read())
            raise
        else:
            _restore(saved, stderr)


def _restore(saved: int, stderr: int) -> None:
    sys.stderr.flush()
    os.dup2(saved, stderr)
    os.close(saved)


def load_tensorflow_quietly() -> None:
    """Import TensorFlow and let it look for devices, without its start-up lines."""
    with native_noise_held():
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.constant(0)
