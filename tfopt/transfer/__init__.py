"""From one task to another: features, parameters and structure of a trained model for a new one."""

from tfopt.base.registry import Kind
from tfopt.transfer.depth_study import DepthStudy
from tfopt.transfer.feature_transfer import FeatureTransfer
from tfopt.transfer.features import extract_features, feature_extractor
from tfopt.transfer.head import Head, new_head
from tfopt.transfer.parameter_transfer import ParameterTransfer
from tfopt.transfer.parameters import transfer_weights
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
    "ParameterTransfer",
    "StructureTransfer",
    "Transfer",
    "Transferred",
    "TransferredWeights",
    "extract_features",
    "feature_extractor",
    "h_score",
    "leep",
    "logme",
    "new_head",
    "transfer_weights",
]
