"""Weights of a few bits without training: ranges, rounding and corrections of a trained model."""
