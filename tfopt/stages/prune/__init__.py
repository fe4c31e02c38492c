"""Pruning: set weights to zero."""
