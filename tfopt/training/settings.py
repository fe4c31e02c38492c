"""The settings of training."""

import difflib
import math
import sys
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from tfopt.base.config import config

# Seeds are below this number, as TensorFlow's are.
SEEDS = 2**32
_TYPING_ERROR = 0.8  # how much alike two names are at least, as difflib counts it
_TOO_MANY = 2  # letters that nobody adds by mistake
BALANCED = "balanced"
"""The weights of classes that gives all of them the same share of the loss."""
# Those of tf_keras, which takes seconds to import.
OPTIMIZERS = ("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lion", "nadam", "rmsprop", "sgd")


# Those of both Keras packages, which take seconds to import.
LOSSES = (
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CTC", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy", "CategoricalHinge", "Circle", "CosineSimilarity", "Dice", "Hinge", "Huber",
    "KLDivergence", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
    "MeanSquaredLogarithmicError", "Poisson", "SparseCategoricalCrossentropy", "SquaredHinge", "Tversky",
    "BCE", "KLD", "MAE", "MAPE", "MSE", "MSLE", "bce", "binary_crossentropy", "binary_focal_crossentropy",
    "categorical_crossentropy", "categorical_focal_crossentropy", "categorical_generalized_cross_entropy",
    "categorical_hinge", "circle", "cosine_similarity", "ctc", "dice", "hinge", "huber", "huber_loss", "kl_divergence",
    "kld", "kullback_leibler_divergence", "log_cosh", "logcosh", "mae", "mape", "mean_absolute_error",
    "mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error", "mse", "msle", "poisson",
    "sparse_categorical_crossentropy", "squared_hinge", "tversky",
)  # fmt: skip


@config
class Training:
    """Training settings for every stage.

    Attributes:
        optimizer: a tf_keras optimizer by name.
        learning_rate: at the start of each stage, unless the stage sets one.
        range_test: let `find_learning_rate` choose the rate of each stage that sets none, on the model before it and
            the training data. `learning_rate` is used where no rate lowers the loss. It helps models that have much to
            learn; one that is nearly trained tells little.
        schedule: of the learning rate within each stage: "cosine" (down to zero, Loshchilov & Hutter 2016), "one_cycle"
            (up, then down far below the start, Smith & Topin 2017) or "constant"; see `tfopt.training.schedules`.
        warm_up: fraction of each stage's steps in which the rate rises to `learning_rate`; None: 0.3 for one cycle; 0.2
            for the others where pretrained BatchNormalizations keep their statistics, else none.
        batch_size: samples per step.
        lower_batch_on_oom: halve the batch size when memory runs out, with a note, and begin the stage again.
        precision: of products and convolutions in training: "float16" on GPUs, with a scaled loss, or "bfloat16" on
            CPUs. Weights, optimizer, losses and statistics stay float32, and so do the model and the file.
        loss: a loss of Keras by name, or an object or a function registered with
            `keras.saving.register_keras_serializable`; a dict of these for some or all of several outputs. None uses
            the compiled loss, else one that fits labels and outputs.
        loss_weights: the weight of the loss of each output, by name; None uses the compiled ones. An output that is
            left out has weight 1.
        metrics: more metrics for the rows of the report, measured on the test samples with the file of each: names, or
            registered objects and functions as for `loss`; a dict of these by output if there are several.
        seed: of shuffling, augmentation and everything else random.
        patience: end a stage after this many epochs without a better one on validation; None trains all of them. The
            best epoch is kept in either case.
        class_weight: "balanced" multiplies the loss of each sample by n / (k * c), for n samples of k classes, c of
            which have its class. For outputs with classes, also with one for each place. A dict sets the weight of each
            class, 1 for those that it leaves out: {"cat": 2.0} by name, {0: 1.0, 1: 3.0} by number where no class has
            that name. If there are several outputs, a dict has "balanced" or such a dict for some or all of them.
        batchnorm: "frozen" trains with the statistics that pretrained BatchNormalizations have, "train" with those of
            each batch; "auto" freezes them with fewer than 1,000 training samples. In any case the statistics that
            validate best are kept in the end.
        augmentation: the strength of random augmentation of training samples, from 0 (none) to 1; 0.5 is usual. It
            sets those of the transformations below that are None. Each is halved or dropped, with a note in the report,
            if the given model does not recognize samples changed in that way.
        mixup: train on mixtures of two samples and their labels (Zhang et al. 2018, arXiv:1710.09412): alpha of the
            beta distribution of their shares; 0.2 is usual, 0 is none. Not with a teacher.
        horizontal_flip, vertical_flip, shift, rotation, zoom, brightness, contrast, cutout, at_once: of images, see
            `Augmentation`.
        shift, noise, time_mask, frequency_mask: of recordings, see `tfopt.inputs.SoundAugmentation`.

    Examples:
        >>> training = tfopt.Training(learning_rate=5e-4, patience=5, augmentation=0.5)
        >>> recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=20),), training=training)
        >>> recipe.training.optimizer, recipe.training.schedule
        ('adam', 'cosine')
    """

    optimizer: str = "adam"
    learning_rate: PositiveFloat = 1e-3
    range_test: bool = False
    schedule: Literal["cosine", "constant", "one_cycle"] = "cosine"
    warm_up: float | None = Field(default=None, ge=0, lt=1)
    batch_size: PositiveInt = 64
    lower_batch_on_oom: bool = False
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    loss: str | dict[str, Any] | None = None
    loss_weights: dict[str, NonNegativeFloat] | None = None
    metrics: tuple[Any, ...] | dict[str, Any] = ()
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    class_weight: str | dict[str, Any] | None = None
    batchnorm: Literal["auto", "train", "frozen"] = "auto"
    patience: PositiveInt | None = None
    augmentation: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0, le=10)
    horizontal_flip: bool | None = None
    vertical_flip: bool | None = None
    shift: float | None = Field(default=None, ge=0, lt=1)
    rotation: float | None = Field(default=None, ge=0, le=180)
    zoom: float | None = Field(default=None, ge=0, lt=1)
    brightness: float | None = Field(default=None, ge=0, le=1)
    contrast: float | None = Field(default=None, ge=0, le=1)
    cutout: float | None = Field(default=None, ge=0, lt=1)
    at_once: PositiveInt | None = None
    noise: float | None = Field(default=None, ge=0, le=1)
    time_mask: float | None = Field(default=None, ge=0, lt=1)
    frequency_mask: float | None = Field(default=None, ge=0, lt=1)

    @field_validator("loss", "metrics", mode="before")
    @classmethod
    def _as_data(cls, value: Any) -> Any:
        from tfopt.training.named import as_data

        return as_data(value)

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, value: Any) -> Any:
        by_output = value.values() if isinstance(value, dict) and "class_name" not in value else [value]
        for name in by_output:
            if isinstance(name, str):
                _check_loss_name(name)
        return value

    @field_validator("class_weight", mode="before")
    @classmethod
    def _check_class_weight(cls, value: Any) -> Any:
        return value if value is None else _class_weight(value)

    @field_validator("optimizer")
    @classmethod
    def _check_optimizer(cls, name: str) -> str:
        if name.lower() not in OPTIMIZERS:
            near = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1) or OPTIMIZERS
            raise ValueError(f"tf_keras has no such optimizer; expected {' or '.join(near)}")
        return name


def _check_loss_name(name: str) -> None:
    """Raise ValueError for the name of a loss with a typing error; one that is unlike all may be registered later.

    So may a longer one around a known name, such as weighted_categorical_crossentropy.
    """
    longer = any(known in name and len(name) > len(known) + _TOO_MANY for known in LOSSES)
    known = name in LOSSES or ">" in name or longer
    near = [] if known else difflib.get_close_matches(name, LOSSES, n=1, cutoff=_TYPING_ERROR)
    loaded = [sys.modules[package] for package in ("keras", "tf_keras") if package in sys.modules]
    if near and not any(package.saving.get_registered_object(name) for package in loaded):
        raise ValueError(f"Keras has no such loss as {name!r}; the nearest one is {near[0]}")


def _class_weight(value: Any, *, of_output: bool = False) -> str | dict[str, Any]:
    """Return weights of classes as JSON holds them, with numbers of classes as texts.

    Raises:
        ValueError: they are neither "balanced" nor a dict of weights, or, unless `of_output`, of these by output.
    """
    if value == BALANCED:
        return BALANCED
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f'expected "{BALANCED}", or a dict with a weight for each class, such as {{0: 1.0, 1: 3.0}}')
    found: dict[str, Any] = {}
    for key, weight in value.items():
        name = str(key) if isinstance(key, str) or (isinstance(key, Integral) and not isinstance(key, bool)) else None
        if name is None or name in found:
            raise ValueError(f"expected each class once, by its name or its number, got {key!r}")
        if not of_output and (isinstance(weight, Mapping) or weight == BALANCED):
            found[name] = _class_weight(weight, of_output=True)
        elif isinstance(weight, Real) and not isinstance(weight, bool) and 0 <= float(weight) < math.inf:
            found[name] = float(weight)
        else:
            raise ValueError(f"expected a finite weight of at least 0 for class {key!r}, got {weight!r}")
    kinds = {isinstance(weight, float) for weight in found.values()}
    if len(kinds) > 1:
        raise ValueError("expected weights of classes, or what each output has, got both")
    return found
