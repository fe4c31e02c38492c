"""Pruning: some weights become zero."""
