"""Resize a model: widths, input sizes, depth, classifier, body."""
