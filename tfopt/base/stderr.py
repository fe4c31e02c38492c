"""Suppression of what native libraries print to stderr on success; on failure it is shown."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tfopt.base import native
from tfopt.base.devices import grow_gpu_memory


@contextmanager
def native_noise_held() -> Iterator[None]:
    """Hold back what TensorFlow's and LiteRT's C++ code prints to stderr within this block.

    Print it after all when the block raises. Python's own `sys.stderr` is held back too. In the child for native code
    nothing is held back: the last line before a crash says why.
    """
    if native.in_child():
        yield
        return
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


@contextmanager
def warnings_held() -> Iterator[None]:
    """Suppress the warnings of TensorFlow's Python loggers within this block; errors are shown."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def retracing_warnings_held() -> Iterator[None]:
    """Suppress TensorFlow's warnings about retraced functions: a run calls each of many models only a few times."""
    logger = logging.getLogger("tensorflow")

    def unrelated(record: logging.LogRecord) -> bool:
        return "tf.function retracing" not in record.getMessage()

    logger.addFilter(unrelated)
    try:
        yield
    finally:
        logger.removeFilter(unrelated)


def _restore(saved: int, stderr: int) -> None:
    sys.stderr.flush()
    os.dup2(saved, stderr)
    os.close(saved)


def load_tensorflow_quietly() -> None:
    """Import TensorFlow and let it detect devices, without its start-up messages."""
    with native_noise_held():
        import tensorflow as tf

        grow_gpu_memory()
        tf.constant(0)
