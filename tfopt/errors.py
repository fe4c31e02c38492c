"""Errors a user can cause. Each message says what was expected, what came and what to do."""


class TfoptError(Exception):
    """Base of all errors that tfopt raises on purpose.

    Examples:
        >>> try:
        ...     stage = tfopt.Prune(final_sparsity=2)
        ... except tfopt.TfoptError as error:
        ...     print(f"{type(error).__name__}: {error}")
        RecipeError: Prune.final_sparsity = 2: expected a number below 1.0.
    """


class ModelError(TfoptError):
    """A model that cannot be read, bridged or compressed as requested.

    Examples:
        >>> try:
        ...     model = tfopt.load_model("missing.keras")
        ... except tfopt.ModelError as error:
        ...     print(error)
        missing.keras: no such file or folder; check the path.
    """


class CannotRunError(ModelError):
    """A `.tflite` that LiteRT cannot run."""


class DataError(TfoptError):
    """Data that cannot be read or does not fit the model.

    Examples:
        >>> try:
        ...     data = tfopt.load_data((x, y[:-1]))
        ... except tfopt.DataError as error:
        ...     print(error)
        Expected as many train labels as inputs, got 200 inputs and 199 labels; pair them up.
    """


class RecipeError(TfoptError):
    """A recipe that contradicts itself or that the model cannot follow.

    Examples:
        >>> try:
        ...     recipe = tfopt.Recipe(stages=(tfopt.Quantize(), tfopt.Prune()))
        ... except tfopt.RecipeError as error:
        ...     print(error)
        Quantize must be the last stage: its trained graph is what gets exported.
    """


class DivergedError(RecipeError):
    """A training whose loss, weights or outputs are not finite."""


class PromiseError(TfoptError):
    """A result that breaks a promise (sparsity, clusters, int8, the outputs of the model).

    Attributes:
        data: the `.tflite` that breaks it, if there is one.
        layer: the layer that breaks it, if a single one does.

    Examples:
        >>> stage = tfopt.Prune(final_sparsity=0.5)
        >>> prunable = stage.apply(model, steps=7)
        >>> try:
        ...     sparse = stage.strip(prunable)  # without any training
        ... except tfopt.PromiseError as error:
        ...     print(error)
        Prune: layer 'first': sparsity 0.0000, promised 0.5000. Run fit for the steps that were passed to apply(), ...
    """

    data: bytes | None = None
    layer: str | None = None


class OutputError(TfoptError):
    """An output folder or file that cannot be written.

    Examples:
        >>> result = tfopt.optimize(model, tfopt.PostTraining(rounding="nearest"), data, quiet=True)
        >>> folder = result.save("saved_models/digits")
        >>> try:
        ...     folder = result.save("saved_models/digits")
        ... except tfopt.OutputError as error:
        ...     print(error)
        The folder saved_models/digits is not empty. Pass --overwrite (overwrite=True) to replace it, or another folder.
    """
