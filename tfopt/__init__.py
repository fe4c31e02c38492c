"""tfopt: from a trained Keras model to a small, verified `.tflite`.

The names a recipe needs are here; the rest are in `tfopt.inputs`, `tfopt.losses`, `tfopt.transfer`, `tfopt.training`,
`tfopt.self_taught` and `tfopt.extend`. Importing tfopt is cheap: the first name that needs TensorFlow imports it.
"""

import functools
import importlib
import warnings
from typing import TYPE_CHECKING, Any

from tfopt.base import late_classes

if TYPE_CHECKING:
    from tfopt import extend, inputs, losses, self_taught, training, transfer
    from tfopt.cli import run_recipe
    from tfopt.data import Augmentation, Dataset, Preprocessing, load_data, load_series
    from tfopt.distillation.distillation import Distillation
    from tfopt.distillation.distilled import distill
    from tfopt.distillation.self_taught.mean_teacher import MeanTeacher
    from tfopt.errors import DataError, ModelError, OutputError, PromiseError, RecipeError, TfoptError
    from tfopt.models import load_model
    from tfopt.run.check import Check, check
    from tfopt.run.optimize import optimize
    from tfopt.run.recipe import Recipe
    from tfopt.run.result import Result
    from tfopt.search.sensitivity import Sensitivity, sensitivity
    from tfopt.stages import (
        Binarize,
        Cluster,
        FineTune,
        LowRank,
        PostTraining,
        Prune,
        PruneBlocks,
        PruneChannels,
        Quantize,
    )
    from tfopt.stages.fine_tune import fine_tuning
    from tfopt.tasks import anomaly_scores
    from tfopt.teachers import Ensemble, Precomputed, Teacher
    from tfopt.tflite.read import LiteModel
    from tfopt.tflite.settings import Export
    from tfopt.tflite.write.export import export_tflite
    from tfopt.training.settings import Training

    # The names of `_MOVED`, re-exported with "as" because `__all__` leaves them out.
    # isort: off
    from tfopt.extend import register_twin as register_twin
    from tfopt.losses import (
        DIST as DIST,
        DKD as DKD,
        FSP as FSP,
        L2 as L2,
        L2SP as L2SP,
        PKT as PKT,
        RKD as RKD,
        VID as VID,
        AttentionTransfer as AttentionTransfer,
        BoundedRegression as BoundedRegression,
        FitNets as FitNets,
        Hinton as Hinton,
        MultilabelKD as MultilabelKD,
        RegressionKD as RegressionKD,
        SimilarityPreserving as SimilarityPreserving,
        StandardizedKD as StandardizedKD,
        TeacherFree as TeacherFree,
    )
    from tfopt.self_taught import (
        BornAgain as BornAgain,
        EarlyExits as EarlyExits,
        born_again as born_again,
        early_exits as early_exits,
        mean_teacher as mean_teacher,
        mutual as mutual,
    )
    from tfopt.training import (
        LearningRates as LearningRates,
        cosine_schedule as cosine_schedule,
        find_learning_rate as find_learning_rate,
        frozen as frozen,
        layer_rates as layer_rates,
        one_cycle_schedule as one_cycle_schedule,
        unfrozen as unfrozen,
    )
    from tfopt.transfer import (
        DepthStudy as DepthStudy,
        FeatureTransfer as FeatureTransfer,
        Head as Head,
        HubModule as HubModule,
        ParameterTransfer as ParameterTransfer,
        Ranking as Ranking,
        StructureTransfer as StructureTransfer,
        TransferredWeights as TransferredWeights,
        extract_features as extract_features,
        feature_extractor as feature_extractor,
        h_score as h_score,
        hub_layer as hub_layer,
        leep as leep,
        logme as logme,
        new_head as new_head,
        open_hub as open_hub,
        rank_sources as rank_sources,
        repeatable_blocks as repeatable_blocks,
        restructure as restructure,
        transfer_weights as transfer_weights,
    )
    # isort: on

__version__ = "0.2.0"

__all__ = [
    "Augmentation",
    "Binarize",
    "Check",
    "Cluster",
    "DataError",
    "Dataset",
    "Distillation",
    "Ensemble",
    "Export",
    "FineTune",
    "LiteModel",
    "LowRank",
    "MeanTeacher",
    "ModelError",
    "OutputError",
    "PostTraining",
    "Precomputed",
    "Preprocessing",
    "PromiseError",
    "Prune",
    "PruneBlocks",
    "PruneChannels",
    "Quantize",
    "Recipe",
    "RecipeError",
    "Result",
    "Sensitivity",
    "Teacher",
    "TfoptError",
    "Training",
    "anomaly_scores",
    "check",
    "distill",
    "export_tflite",
    "fine_tuning",
    "load_data",
    "load_model",
    "load_series",
    "optimize",
    "run_recipe",
    "sensitivity",
]

_NAMESPACES = ("extend", "inputs", "losses", "self_taught", "training", "transfer")

# The module that defines each name of `__all__`.
_HOMES = {
    name: home
    for home, names in {
        "cli": "run_recipe",
        "data": "Augmentation Dataset Preprocessing load_data load_series",
        "distillation.distillation": "Distillation",
        "distillation.distilled": "distill",
        "distillation.self_taught.mean_teacher": "MeanTeacher",
        "errors": "DataError ModelError OutputError PromiseError RecipeError TfoptError",
        "models": "load_model",
        "run.check": "Check check",
        "run.optimize": "optimize",
        "run.recipe": "Recipe",
        "run.result": "Result",
        "search.sensitivity": "Sensitivity sensitivity",
        "stages": "Binarize Cluster FineTune LowRank PostTraining Prune PruneBlocks PruneChannels Quantize",
        "stages.fine_tune": "fine_tuning",
        "tasks": "anomaly_scores",
        "teachers": "Ensemble Precomputed Teacher",
        "tflite.read": "LiteModel",
        "tflite.settings": "Export",
        "tflite.write.export": "export_tflite",
        "training.settings": "Training",
    }.items()
    for name in names.split()
}

# The functions that make the layer classes of trained models; files name them.
_LAYERS = {
    "ClusterKernels": ("stages.cluster.wrapper", "cluster_kernels"),
    "Int8Input": ("stages.quantize.wrapper", "int8_input"),
    "Int8Wrapper": ("stages.quantize.wrapper", "int8_wrapper"),
    "PruneByScore": ("stages.prune.wrapper", "scored_pruning"),
}


def _made(home: str, maker: str) -> Any:
    return getattr(importlib.import_module(f"tfopt.{home}"), maker)()


for _name, _place in _LAYERS.items():
    late_classes.provide(_name, functools.partial(_made, *_place))

# Names of 0.1 that have moved; removed in 0.3.0.
_MOVED = {
    name: home
    for home, names in {
        "extend": "register_twin",
        "losses": "AttentionTransfer BoundedRegression DIST DKD FSP FitNets Hinton L2 L2SP MultilabelKD PKT RKD "
        "RegressionKD SimilarityPreserving StandardizedKD TeacherFree VID",
        "self_taught": "BornAgain EarlyExits born_again early_exits mean_teacher mutual",
        "training": "LearningRates cosine_schedule find_learning_rate frozen layer_rates one_cycle_schedule unfrozen",
        "transfer": "DepthStudy FeatureTransfer Head HubModule ParameterTransfer Ranking StructureTransfer "
        "TransferredWeights extract_features feature_extractor h_score hub_layer leep logme new_head open_hub "
        "rank_sources repeatable_blocks restructure transfer_weights",
    }.items()
    for name in names.split()
}

if not TYPE_CHECKING:  # lets a type checker report names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _NAMESPACES:
            return importlib.import_module(f"tfopt.{name}")
        if name in _HOMES:
            return getattr(importlib.import_module(f"tfopt.{_HOMES[name]}"), name)
        if name in _MOVED:
            place = f"tfopt.{_MOVED[name]}"
            text = f"tfopt.{name} moved to {place}.{name}; the old name will be removed in 0.3.0."
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(place), name)
        raise AttributeError(f"module 'tfopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_NAMESPACES]
