"""Work in a process of its own, whose memory goes back with it and whose crash is an error here.

TensorFlow's converter keeps memory after every conversion (tensorflow issue 122598), and some graphs end its process.
A child costs one import of TensorFlow; see `Child` for several calls in one.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from tfopt.errors import ModelError

P = ParamSpec("P")
R = TypeVar("R")


def in_child(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `function` returns, called in a new process; it raises what it raises there.

    The function, its arguments and its result must be picklable: a function at the top of a module, model files by
    their paths. Raises ModelError when the process dies, as by a crash in native code or for want of memory.
    """
    with Child() as child:
        return child.call(function, *args, **kwargs)


class Child:
    """One process for several calls, one after the other. It starts at the first call and ends with the block.

    ```python
    with Child() as child:
        for path in paths:
            child.call(convert_file, path)
    ```
    """

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `in_child`; after a ModelError for a process that died, no further call can be made."""
        try:
            return self._pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise ModelError(
                f"The process that ran {function.__name__} died, by a crash in native code or for want of memory; "
                "nothing was written. Try fewer samples, another form of weights or activations, or a smaller model."
            ) from error
