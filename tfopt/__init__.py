"""tfopt: from a trained Keras model to a small, verified `.tflite`.

Nothing heavy is imported here: TensorFlow comes with the first name that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfopt.bridge import register_twin
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
    from tfopt.errors import DataError, ModelError, OutputError, PromiseError, RecipeError, TfoptError
    from tfopt.models import load_model
    from tfopt.models.hub import HubModule, hub_layer, open_hub
    from tfopt.run.born_again import BornAgain, born_again
    from tfopt.run.check import Check, check
    from tfopt.run.optimize import optimize
    from tfopt.run.recipe import Recipe
    from tfopt.run.result import Result
    from tfopt.search.sensitivity import Sensitivity, sensitivity
    from tfopt.stages import Binarize, Cluster, FineTune, PostTraining, Prune, Quantize
    from tfopt.stages.fine_tune import fine_tuning
    from tfopt.surgery.depth import repeatable_blocks
    from tfopt.surgery.restructure import restructure
    from tfopt.teachers import Ensemble, Precomputed, Teacher
    from tfopt.tflite.read import LiteModel
    from tfopt.tflite.settings import Export
    from tfopt.tflite.write.export import export_tflite
    from tfopt.training.freezing import frozen, unfrozen
    from tfopt.training.layer_rates import layer_rates
    from tfopt.training.rate_finder import LearningRates, find_learning_rate
    from tfopt.training.schedules import cosine_schedule, one_cycle_schedule
    from tfopt.training.settings import Training
    from tfopt.transfer import (
        DepthStudy,
        FeatureTransfer,
        Head,
        ParameterTransfer,
        StructureTransfer,
        extract_features,
        feature_extractor,
        new_head,
    )
    from tfopt.transfer.parameters import transfer_weights
    from tfopt.transfer.ranking import Ranking, rank_sources
    from tfopt.transfer.scores import h_score, leep, logme
    from tfopt.transfer.weight_report import TransferredWeights

__version__ = "0.2.0"

_HOMES = {
    "AttentionTransfer": "distillation.losses",
    "Augmentation": "data",
    "Binarize": "stages",
    "BornAgain": "run.born_again",
    "BoundedRegression": "distillation.losses",
    "Check": "run.check",
    "Cluster": "stages",
    "DIST": "distillation.losses",
    "DKD": "distillation.losses",
    "DataError": "errors",
    "Dataset": "data",
    "DepthStudy": "transfer",
    "Distillation": "distillation.distillation",
    "EarlyExits": "distillation.self_taught.exits",
    "Ensemble": "teachers",
    "Export": "tflite.settings",
    "FSP": "distillation.losses",
    "FeatureTransfer": "transfer",
    "FineTune": "stages",
    "FitNets": "distillation.losses",
    "Head": "transfer",
    "Hinton": "distillation.losses",
    "HubModule": "models.hub",
    "L2": "distillation.losses",
    "L2SP": "distillation.losses",
    "LearningRates": "training.rate_finder",
    "LiteModel": "tflite.read",
    "MeanTeacher": "distillation.self_taught.mean_teacher",
    "ModelError": "errors",
    "MultilabelKD": "distillation.losses",
    "OutputError": "errors",
    "PKT": "distillation.losses",
    "ParameterTransfer": "transfer",
    "PostTraining": "stages",
    "Precomputed": "teachers",
    "Preprocessing": "data",
    "PromiseError": "errors",
    "Prune": "stages",
    "Quantize": "stages",
    "RKD": "distillation.losses",
    "Ranking": "transfer.ranking",
    "Recipe": "run.recipe",
    "RecipeError": "errors",
    "RegressionKD": "distillation.losses",
    "Result": "run.result",
    "Sensitivity": "search.sensitivity",
    "SimilarityPreserving": "distillation.losses",
    "StandardizedKD": "distillation.losses",
    "StructureTransfer": "transfer",
    "Teacher": "teachers",
    "TeacherFree": "distillation.losses",
    "TfoptError": "errors",
    "Training": "training.settings",
    "TransferredWeights": "transfer.weight_report",
    "VID": "distillation.losses",
    "born_again": "run.born_again",
    "check": "run.check",
    "cosine_schedule": "training.schedules",
    "distill": "distillation.distilled",
    "early_exits": "distillation.self_taught.exits",
    "export_tflite": "tflite.write.export",
    "extract_features": "transfer",
    "feature_extractor": "transfer",
    "find_learning_rate": "training.rate_finder",
    "fine_tuning": "stages.fine_tune",
    "frozen": "training.freezing",
    "h_score": "transfer.scores",
    "hub_layer": "models.hub",
    "layer_rates": "training.layer_rates",
    "leep": "transfer.scores",
    "load_data": "data",
    "load_model": "models",
    "logme": "transfer.scores",
    "mean_teacher": "distillation.self_taught.mean_teacher",
    "mutual": "distillation.self_taught.mutual",
    "new_head": "transfer",
    "one_cycle_schedule": "training.schedules",
    "open_hub": "models.hub",
    "optimize": "run.optimize",
    "rank_sources": "transfer.ranking",
    "register_twin": "bridge",
    "repeatable_blocks": "surgery.depth",
    "restructure": "surgery.restructure",
    "run_recipe": "cli",
    "sensitivity": "search.sensitivity",
    "transfer_weights": "transfer.parameters",
    "unfrozen": "training.freezing",
}

_NAMESPACES = ("extend", "losses", "transfer")

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"tfopt.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tfopt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tfopt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_NAMESPACES]
