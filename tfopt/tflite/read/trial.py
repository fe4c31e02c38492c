"""What the sandbox does with a .tflite: read all of it and run it once. Run in the child alone."""

from ai_edge_litert import interpreter as _loaded  # noqa: F401  before the limit on memory is set

from tfopt.errors import DataError, ModelError
from tfopt.tflite.read.model import LiteModel


def run(path: str) -> None:
    """Read every weight of the .tflite at `path` and run it on one sample of noise.

    A file that needs real inputs, as an index within its range, is read only: what it says then is for its caller.
    """
    lite = LiteModel(path)
    lite.weights()
    try:
        lite.predict(lite.random_sample())
    except (DataError, ModelError):
        return
