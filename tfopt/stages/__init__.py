"""The stages of a recipe, each a frozen config with the methods that apply it."""

from tfopt.base.registry import Kind
from tfopt.stages.channels.prune_channels import PruneChannels
from tfopt.stages.cluster.cluster import Cluster
from tfopt.stages.fine_tune import FineTune
from tfopt.stages.low_rank import LowRank
from tfopt.stages.prune.prune import Prune
from tfopt.stages.prune_blocks import PruneBlocks
from tfopt.stages.quantize.binarize import Binarize
from tfopt.stages.quantize.post_training import PostTraining
from tfopt.stages.quantize.quantize import Quantize
from tfopt.stages.stage import Stage

STAGES = Kind[Stage](
    "Stage",
    "stage",
    Stage,
    (FineTune, PruneBlocks, PruneChannels, LowRank, Prune, Cluster, Quantize, Binarize, PostTraining),
)

__all__ = [
    "STAGES",
    "Binarize",
    "Cluster",
    "FineTune",
    "LowRank",
    "PostTraining",
    "Prune",
    "PruneBlocks",
    "PruneChannels",
    "Quantize",
    "Stage",
]
