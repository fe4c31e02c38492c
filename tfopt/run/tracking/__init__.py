"""Trackers: a run in TensorBoard, MLflow or Weights & Biases."""
