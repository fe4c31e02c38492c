"""What a stage, a loss or a transfer outside of tfopt is made from."""

from tfopt.base.config import config
from tfopt.base.registry import register
from tfopt.distillation.losses import Lesson, Loss
from tfopt.stages import Stage
from tfopt.stages.kernels.promise import Promise
from tfopt.transfer import Transfer, Transferred

__all__ = ["Lesson", "Loss", "Promise", "Stage", "Transfer", "Transferred", "config", "register"]
