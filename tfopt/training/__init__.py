"""Training: settings, loss and optimizer, schedules, rates, freezing, augmentation."""

from tfopt.training.freezing import frozen, unfrozen
from tfopt.training.rate_finder import LearningRates, find_learning_rate
from tfopt.training.rates import layer_rates
from tfopt.training.schedules import cosine_schedule, one_cycle_schedule

__all__ = [
    "LearningRates",
    "cosine_schedule",
    "find_learning_rate",
    "frozen",
    "layer_rates",
    "one_cycle_schedule",
    "unfrozen",
]
