"""Bases of stages, losses, transfers, tasks and layer twins in other packages: `@tfopt.extend.register("acme")`."""

from tfopt.base.config import config
from tfopt.base.registry import register
from tfopt.bridge import register_twin
from tfopt.distillation.losses import FeatureLoss, Loss, LossInputs
from tfopt.stages import Stage
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.promise import Clusters, MByN, Promise, Sparsity
from tfopt.tasks import Task
from tfopt.transfer import Transfer, Transferred

__all__ = [
    "Clusters",
    "Decision",
    "FeatureLoss",
    "Loss",
    "LossInputs",
    "MByN",
    "Promise",
    "Sparsity",
    "Stage",
    "Task",
    "Transfer",
    "Transferred",
    "config",
    "register",
    "register_twin",
]
