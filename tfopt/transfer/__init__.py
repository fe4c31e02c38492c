"""Transfer of features, parameters and structure from a trained model to a new task."""

from tfopt.base.registry import Kind
from tfopt.models.hub import HubModule, hub_layer, open_hub
from tfopt.surgery.depth import repeatable_blocks
from tfopt.surgery.restructure import restructure
from tfopt.transfer.depth_study import DepthStudy
from tfopt.transfer.feature_transfer import FeatureTransfer
from tfopt.transfer.features import extract_features, feature_extractor
from tfopt.transfer.head import Head, new_head
from tfopt.transfer.parameter_transfer import ParameterTransfer
from tfopt.transfer.parameters import transfer_weights
from tfopt.transfer.ranking import Ranking, rank_sources
from tfopt.transfer.scores import h_score, leep, logme
from tfopt.transfer.structure_transfer import StructureTransfer
from tfopt.transfer.transfer import Transfer, Transferred
from tfopt.transfer.weight_report import TransferredWeights

TRANSFERS = Kind[Transfer](
    "Transfer", "kind of transfer", Transfer, (FeatureTransfer, ParameterTransfer, StructureTransfer, DepthStudy)
)
"""Every kind of transfer that a recipe can begin with."""

__all__ = [
    "TRANSFERS",
    "DepthStudy",
    "FeatureTransfer",
    "Head",
    "HubModule",
    "ParameterTransfer",
    "Ranking",
    "StructureTransfer",
    "Transfer",
    "Transferred",
    "TransferredWeights",
    "extract_features",
    "feature_extractor",
    "h_score",
    "hub_layer",
    "leep",
    "logme",
    "new_head",
    "open_hub",
    "rank_sources",
    "repeatable_blocks",
    "restructure",
    "transfer_weights",
]
