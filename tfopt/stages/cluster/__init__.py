"""Clustering: weights share a few values."""
