"""Model files: identified by content, loaded by the Keras that wrote them, written atomically."""

from tfopt.models.content import kind
from tfopt.models.load import UnsafeFileError, check_graph, load_model
from tfopt.models.save import save_model

__all__ = ["UnsafeFileError", "check_graph", "kind", "load_model", "save_model"]
