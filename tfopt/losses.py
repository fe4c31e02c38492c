"""Distillation losses: `tfopt.losses.Hinton()`."""

from tfopt.distillation.losses import *  # noqa: F403
from tfopt.distillation.losses import __all__ as __all__
