"""Distillation from a teacher to any student: the losses and the training loop."""
