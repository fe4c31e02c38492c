"""Every error a user can cause. A message says what was expected, what came and what to do."""


class TfoptError(Exception):
    """Base of all errors that tfopt raises on purpose."""


class ModelError(TfoptError):
    """A model that cannot be read, bridged or compressed as asked."""


class DataError(TfoptError):
    """Data that cannot be read, or that does not fit the model."""


class RecipeError(TfoptError):
    """A recipe that contradicts itself, or that this model cannot follow."""


class PromiseError(TfoptError):
    """A result that does not hold what the recipe promised (sparsity, clusters, int8)."""


class OutputError(TfoptError):
    """An output folder or file that cannot be written as asked."""
