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
    from tfopt.distillation.distillation import Distillation
    from tfopt.distillation.distilled import distill
    from tfopt.distillation.losses import (
        DIST,
        DKD,
        FSP,
        L2,
        L2SP,
        PKT,
        RKD,
        VID,
        AttentionTransfer,
        BoundedRegression,
        FitNets,
        Hinton,
        MultilabelKD,
        RegressionKD,
        SimilarityPreserving,
        StandardizedKD,
        TeacherFree,
    )
    from tfopt.distillation.self_taught.exits import EarlyExits, early_exits
    from tfopt.distillation.self_taught.mean_teacher import MeanTeacher, mean_teacher
    from tfopt.distillation.self_taught.mutual import mutual
    from tfopt.distillation.teachers import Ensemble, Precomputed, Teacher
    from tfopt.errors import DataError, ModelError, OutputError, PromiseError, RecipeError, TfoptError
    from tfopt.export import Export, export_tflite
    from tfopt.generations import BornAgain, born_again
    from tfopt.litert import LiteModel
    from tfopt.loop import Result, optimize
    from tfopt.models import load_model
    from tfopt.recipe import Recipe, Training
    from tfopt.stages import Cluster, FineTune, Prune, Quantize
    from tfopt.transfer import new_head

__version__ = "0.1.0"

_HOMES = {
    "AttentionTransfer": "distillation.losses",
    "Augmentation": "data",
    "BornAgain": "generations",
    "BoundedRegression": "distillation.losses",
    "Check": "checking",
    "Cluster": "stages",
    "DIST": "distillation.losses",
    "DKD": "distillation.losses",
    "DataError": "errors",
    "Dataset": "data",
    "Distillation": "distillation.distillation",
    "EarlyExits": "distillation.self_taught.exits",
    "Ensemble": "distillation.teachers",
    "Export": "export",
    "FSP": "distillation.losses",
    "FineTune": "stages",
    "FitNets": "distillation.losses",
    "Hinton": "distillation.losses",
    "L2": "distillation.losses",
    "L2SP": "distillation.losses",
    "LiteModel": "litert",
    "MeanTeacher": "distillation.self_taught.mean_teacher",
    "ModelError": "errors",
    "MultilabelKD": "distillation.losses",
    "OutputError": "errors",
    "PKT": "distillation.losses",
    "Precomputed": "distillation.teachers",
    "Preprocessing": "data",
    "PromiseError": "errors",
    "Prune": "stages",
    "Quantize": "stages",
    "RKD": "distillation.losses",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "RegressionKD": "distillation.losses",
    "Result": "loop",
    "SimilarityPreserving": "distillation.losses",
    "StandardizedKD": "distillation.losses",
    "Teacher": "distillation.teachers",
    "TeacherFree": "distillation.losses",
    "TfoptError": "errors",
    "Training": "recipe",
    "VID": "distillation.losses",
    "born_again": "generations",
    "check": "checking",
    "distill": "distillation.distilled",
    "early_exits": "distillation.self_taught.exits",
    "export_tflite": "export",
    "load_data": "data",
    "load_model": "models",
    "mean_teacher": "distillation.self_taught.mean_teacher",
    "mutual": "distillation.self_taught.mutual",
    "new_head": "transfer",
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
