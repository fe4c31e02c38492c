"""The losses of a distillation: `tfopt.losses.Hinton()`."""

from tfopt.distillation.losses import *  # noqa: F403
from tfopt.distillation.losses import __all__ as __all__
