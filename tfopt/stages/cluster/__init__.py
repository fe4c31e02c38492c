"""Clustering: let weights share a few values."""
