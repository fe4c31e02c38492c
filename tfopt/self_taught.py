"""Learn without another model: `tfopt.self_taught.mean_teacher(student)`."""

from tfopt.distillation.self_taught.exits import EarlyExits, early_exits
from tfopt.distillation.self_taught.mean_teacher import mean_teacher
from tfopt.distillation.self_taught.mutual import mutual
from tfopt.run.born_again import BornAgain, born_again

__all__ = ["BornAgain", "EarlyExits", "born_again", "early_exits", "mean_teacher", "mutual"]
