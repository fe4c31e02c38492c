"""Quantization: fewer bits, with and without training."""
