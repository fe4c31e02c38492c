"""SavedModel graphs rebuilt from native Keras layers, so that every compression stage reaches their weights."""

from tfopt.models.rebuild.build import check_equal
from tfopt.models.rebuild.crossing import in_keras
from tfopt.models.rebuild.frozen import NoLayerError
from tfopt.models.rebuild.rebuilt import rebuilt

__all__ = ["NoLayerError", "check_equal", "in_keras", "rebuilt"]
