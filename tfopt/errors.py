"""Errors a user can cause. Each message says what was expected, what came and what to do."""


class TfoptError(Exception):
    """Base of all errors that tfopt raises on purpose."""


class ModelError(TfoptError):
    """A model that cannot be read, bridged or compressed as requested."""


class CannotRunError(ModelError):
    """A `.tflite` that LiteRT cannot run."""


class DataError(TfoptError):
    """Data that cannot be read or does not fit the model."""


class RecipeError(TfoptError):
    """A recipe that contradicts itself or that the model cannot follow."""


class DivergedError(RecipeError):
    """A training whose loss, weights or outputs are not finite."""


class PromiseError(TfoptError):
    """A result that breaks a promise (sparsity, clusters, int8, the outputs of the model).

    Attributes:
        data: the `.tflite` that breaks it, if there is one.
        layer: the layer that breaks it, if a single one does.
    """

    data: bytes | None = None
    layer: str | None = None


class OutputError(TfoptError):
    """An output folder or file that cannot be written."""
