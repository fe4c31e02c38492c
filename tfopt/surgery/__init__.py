"""The same model in other sizes: widths, input sizes, depth, classifier, body."""
