"""From one task to another: what a trained model knows, under a new head."""

from tfopt.transfer.head import new_head

__all__ = ["new_head"]
