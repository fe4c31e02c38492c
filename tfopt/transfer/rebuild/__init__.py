"""A SavedModel's graph rebuilt of native Keras layers, so that every stage of compression reaches its weights."""

from tfopt.transfer.rebuild.build import check_equal
from tfopt.transfer.rebuild.crossing import in_keras
from tfopt.transfer.rebuild.frozen import NoLayerError
from tfopt.transfer.rebuild.rebuilt import rebuilt

__all__ = ["NoLayerError", "check_equal", "in_keras", "rebuilt"]
