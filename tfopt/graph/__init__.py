"""The flat layer graph of a model of either Keras."""
