"""tfopt: from a trained Keras model to a small, verified `.tflite`.

Nothing heavy is imported here: TensorFlow comes with the first name that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfopt.bridge import register_twin
    from tfopt.checking import Check, check
    from tfopt.cli import run_recipe
    from tfopt.data import Augmentation, Dataset, Preprocessing, load_data
    from tfopt.errors import DataError, ModelError, OutputError, PromiseError, RecipeError, TfoptError
    from tfopt.export import Export, export_tflite
    from tfopt.litert import LiteModel
    from tfopt.loop import Result, optimize
    from tfopt.models import load_model
    from tfopt.recipe import Recipe, Training
    from tfopt.stages import Cluster, FineTune, Prune, Quantize

__version__ = "0.1.0"

_HOMES = {
    "Augmentation": "data",
    "Check": "checking",
    "Cluster": "stages",
    "DataError": "errors",
    "Dataset": "data",
    "Export": "export",
    "FineTune": "stages",
    "LiteModel": "litert",
    "ModelError": "errors",
    "OutputError": "errors",
    "Preprocessing": "data",
    "PromiseError": "errors",
    "Prune": "stages",
    "Quantize": "stages",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "Result": "loop",
    "TfoptError": "errors",
    "Training": "recipe",
    "check": "checking",
    "export_tflite": "export",
    "load_data": "data",
    "load_model": "models",
    "optimize": "loop",
    "register_twin": "bridge",
    "run_recipe": "cli",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfopt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tfopt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
