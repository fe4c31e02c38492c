"""mean_teacher: a student taught by the average of its own weights (Tarvainen & Valpola 2017, arXiv:1703.01780).

Choices that the paper leaves open or makes differently:

- The teacher answers in inference mode: BatchNorm by its moving statistics, no Dropout, no augmentation layers. The
  paper found that noise in the teacher helps little if the student has noise too (section 3.4).
- BatchNorm's moving statistics are averaged as the weights are, so that both speak of the same steps. All other
  state (clusters' indices, ranges of quantizers, seeds) is the student's as it is.
- While a student is pruned, the average is one of masked weights, and is not masked itself: what falls fades out of it.
  Applying the student's current mask to older weights would yield a teacher that no student ever was.
- The loss on the labels is a mean over the labeled samples of a batch. The authors' code divides it, and for few
  labels the weight of consistency too, by all samples; the ratio is the same.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from tfopt.base.config import config
from tfopt.base.keras_compat import keras_of
from tfopt.base.renamed import renamed_arguments
from tfopt.distillation.learner import Learner, Row, StepResult, mean_over_samples, model_class
from tfopt.distillation.losses.formulas import kl_of_logits, per_sample
from tfopt.distillation.self_taught.average import Average, copied
from tfopt.distillation.self_taught.semi_supervised import (
    OTHER_VIEW,
    UNLABELED,
    first_inputs,
    is_mixed,
    of_arrays,
    of_dataset,
)
from tfopt.distillation.student_form import student_form
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.graph.keras_internals import random_numbers
from tfopt.tasks import Classification, TaskName, task_named
from tfopt.tasks.responses import Form, as_logits

# What the authors used on SVHN and CIFAR-10, relative to a loss on the labels of labeled samples alone.
MSE_WEIGHT = 100.0
# For two answers close to each other, KL is about (classes / 2) * classes times the mean squared error.
KL_WEIGHT = 2.0


@config
class MeanTeacher:
    """How a student learns from the exponential moving average (EMA) of its own weights, with few labels.

    Tarvainen & Valpola 2017, arXiv:1703.01780.

    Attributes:
        decay: of the average, teacher = a * teacher + (1 - a) * student after step t = 1, 2, ... with
            a = min(1 - 1 / (t + 1), decay): a plain mean at first. 0.99 looks back about 100 steps.
        weight: of the consistency between the two, once ramped up; None is 100 for "mse", 2 for "kl".
        consistency: "mse" between probabilities, the mean over the classes (the paper's), or "kl"(teacher || student).
        ramp_up: share of the steps of a `fit` in which the weight grows as exp(-5 (1 - x)^2), x from 0 to 1.
        noise: standard deviation of Gaussian noise added to each of the two views, in units of the model's input
            (the paper: 0.15, on inputs of variance 1).
        task: what outputs are; "regression" compares values, by "mse".
        batch_share: share of labeled samples in a batch, at least, where the batches are made here (`fit` with
            arrays, recipes). The authors took 31 of 128.
        labeled: in a recipe, the share of the training labels that is used; the other samples count as unlabeled.
        use: what the student's weights are after `fit`: its own, or the "teacher"'s, usually the better ones in long
            training. A student that a stage has wrapped always keeps its own: a pruned network needs its last steps
            under its last mask, which the average looks back beyond.

    Examples:
        >>> recipe = tfopt.Recipe(
        ...     stages=(tfopt.FineTune(epochs=30),),
        ...     distillation=tfopt.MeanTeacher(labeled=0.1, noise=0.15),  # a tenth of the labels
        ... )
    """

    decay: float = Field(default=0.99, ge=0, lt=1)
    weight: NonNegativeFloat | None = None
    consistency: Literal["mse", "kl"] = "mse"
    ramp_up: float = Field(default=0.2, ge=0, le=1)
    noise: NonNegativeFloat = 0.0
    task: TaskName = Classification.kind
    batch_share: float = Field(default=0.25, gt=0, lt=1)
    labeled: float = Field(default=1.0, gt=0, le=1)
    use: Literal["student", "teacher"] = "student"
    renamed: ClassVar[dict[str, str]] = {"labelled": "labeled"}

    def __post_init__(self) -> None:
        if self.consistency == "kl" and not task_named(self.task).has_probabilities:
            raise RecipeError('Regression outputs have no divergence: use consistency="mse".')

    @property
    def full_weight(self) -> float:
        """`weight`, or its default if None."""
        if self.weight is not None:
            return self.weight
        return MSE_WEIGHT if self.consistency == "mse" else KL_WEIGHT

    @property
    def needs_teacher(self) -> bool:
        """False: it brings its own."""
        return False

    def layers(self, side: Literal["student", "teacher"]) -> tuple[str, ...]:
        """Return no layers for either `side`: only outputs are compared."""
        del side
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict with the class name under "kind"."""
        return {"kind": "MeanTeacher", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MeanTeacher":
        """Return the settings whose `values` `to_dict` wrote. Raise `RecipeError` for unknown keys and values."""
        return cls(**{key: value for key, value in values.items() if key != "kind"})


def mean_teacher(student: Any, settings: MeanTeacher | None = None) -> Any:
    """Return a model whose `fit` trains `student` on labels and on consistency with its averaged weights.

    Compile it as you would the student. `predict`, `evaluate`, `save`, `save_weights` and `export` are the student's
    own; `teacher` is the average as a model of the same Keras, kept up to date, and `teacher_model()` a copy of it.
    The logs have "loss", "hard_loss" (on labeled samples) and "consistency" (times its weight).

    `fit` takes labeled and unlabeled samples in one of these forms:

    - arrays `fit(x, y, unlabeled=x_u)`, and arrays in which labels of -1 (integers) or rows of NaN (floats) mark
      unlabeled samples. Batches of `batch_size` hold both kinds (see `MeanTeacher.batch_share`); an epoch shows each
      sample at least once, and those of the smaller kind again. `validation_split` takes labeled samples off.
    - a `tf.data.Dataset` of batches (x, y) or (x, y, sample_weight) with labels so marked. Where x is a pair, it is two
      views of the same samples: the first for the student, the second for the teacher.

    Unlabeled samples enter neither the loss on the labels nor the metrics. A class or sample weight counts for the
    consistency of its sample too; unlabeled ones count 1.

    Args:
        student: a Keras 3 or tf_keras model, also one that a stage's `apply` returned. It is trained in place.
        settings: `MeanTeacher()` if None.

    Raises:
        RecipeError: `settings.labeled` below 1, which is for recipes.

    Examples:
        >>> taught = tfopt.self_taught.mean_teacher(model)
        >>> taught.compile("adam", "sparse_categorical_crossentropy")
        >>> sorted(taught.fit(x[:40], y[:40], unlabeled=x[40:], verbose=0).history)
        ['consistency', 'hard_loss', 'loss']
    """
    settings = settings or MeanTeacher()
    if settings.labeled < 1:
        raise RecipeError(
            f"labeled={settings.labeled} is for recipes, where tfopt holds the data; here mark unlabeled samples with "
            "-1 or NaN, or call fit(..., unlabeled=x)."
        )
    return model_class(_MeanTaught, keras_of(student).__name__)(student, settings)


class _MeanTaught(Learner):
    def __init__(self, student: Any, settings: MeanTeacher) -> None:
        super().__init__(student, f"mean_taught_{student.name}", [Row()], ["consistency"])
        self.student = student
        self.settings = settings
        self.average = Average(student, settings.decay)  # a plain object: Keras neither tracks nor saves what is in it
        self.response: Response | None = None
        self._ramp = Ramp(settings.ramp_up)
        self.random_numbers = random_numbers()

    @property
    def teacher(self) -> Any:
        """The average as a model, kept up to date. Raises ModelError for a student that a stage has wrapped."""
        if self.average.model is None:
            raise ModelError(
                f"'{self.student.name}' is wrapped for training, so its average is not a plain model; strip the "
                "student and use the result."
            )
        return self.average.model

    def teacher_model(self) -> Any:
        """Return a copy of the current `teacher`, which later training does not change."""
        return copied(self.teacher)

    @renamed_arguments(unlabelled="unlabeled")
    def fit(self, x: Any = None, y: Any = None, *args: Any, unlabeled: Any = None, **kwargs: Any) -> Any:
        """Fit as Keras does; `unlabeled` holds additional inputs (n, ...). See `mean_teacher`."""
        self._unlabeled = unlabeled
        try:
            history = super().fit(x, y, *args, **kwargs)
        finally:
            self._unlabeled = None
        if self.hands_over:
            self.average.hand_over()
        return history

    @property
    def hands_over(self) -> bool:
        """Whether the student gets the averaged weights when `fit` ends."""
        return self.settings.use == "teacher" and self.average.model is not None

    def prepare_fit(self, arguments: dict[str, Any]) -> None:
        import tensorflow as tf

        x, extra = arguments["x"], self._unlabeled
        if isinstance(x, tf.data.Dataset):
            if extra is not None:
                raise DataError(
                    "With a tf.data.Dataset, put unlabeled samples into the dataset, with the label -1 or NaN."
                )
            arguments["x"] = x if is_mixed(x) else of_dataset(x)
        elif hasattr(x, "shape"):
            of_arrays(arguments, extra, self.settings.batch_share)
        else:
            raise DataError(
                f"A mean teacher is fitted on one array of inputs or a tf.data.Dataset; got {type(x).__name__}. "
                "Convert it to one of these."
            )
        self.check_fit(first_inputs(arguments["x"]))
        self._first_epoch = arguments["initial_epoch"]

    def check_fit(self, x: Any) -> None:
        """Determine from a few inputs (n, ...) whether the student gives logits. Raise ModelError if it cannot."""
        if self.settings.noise and not np.issubdtype(np.asarray(x).dtype, np.floating):
            raise RecipeError(f"noise={self.settings.noise} cannot be added to inputs of {np.asarray(x).dtype}.")
        outputs = np.asarray(self.student(x, training=False)).astype(np.float32)
        exclusive = task_named(self.settings.task).exclusive(outputs.shape[-1])
        try:
            self.response = Response(exclusive, student_form(outputs, self.settings.task), self.settings.consistency)
        except ModelError as error:
            raise ModelError(f"The student '{self.student.name}': {error}") from error

    def on_fit_begin(self, epochs: int, steps: int | None) -> None:
        self._ramp.on_fit_begin(self.average.steps, epochs, steps, self._first_epoch)

    def learning_step(self, x: Any, y: Any, sample_weight: Any) -> StepResult:
        del y
        import tensorflow as tf

        given = x if isinstance(x, dict) and UNLABELED in x else {"inputs": x}
        inputs, unlabeled = given["inputs"], given.get(UNLABELED)
        both = inputs if unlabeled is None else tf.concat([inputs, unlabeled], axis=0)
        answers = self.average.answers(self._noisy(given.get(OTHER_VIEW, both)))
        outputs = self.student(self._noisy(both), training=True)
        gaps = self._response().gaps(outputs, tf.stop_gradient(answers))
        labeled = tf.shape(inputs)[0]
        if sample_weight is not None and unlabeled is not None:
            ones = tf.ones(tf.shape(unlabeled)[:1], sample_weight.dtype)
            sample_weight = tf.concat([per_sample(sample_weight), ones], axis=0)
        weight = self.settings.full_weight * self._ramp.share(self.average.steps)
        return StepResult([outputs[:labeled]], [weight * mean_over_samples(gaps, sample_weight)])

    @property
    def own_variables(self) -> list[Any]:
        return [*super().own_variables, *self.average.variables, *self._ramp.variables]

    def after_step(self) -> None:
        self.average.update()

    def _noisy(self, x: Any) -> Any:
        import tensorflow as tf

        noise = self.settings.noise
        return x + self.random_numbers.random_normal(tf.shape(x), stddev=noise, dtype=x.dtype) if noise else x

    def _response(self) -> "Response":
        if self.response is None:
            raise ModelError(
                "Expected a trained mean teacher: fit determines whether outputs are logits. Call fit first."
            )
        return self.response


@dataclasses.dataclass(frozen=True)
class Response:
    """What outputs mean, and how far two of them are apart.

    Attributes:
        exclusive: whether the probabilities of a sample sum to 1.
    """

    exclusive: bool
    form: Form
    consistency: Literal["mse", "kl"]

    def gaps(self, student: Any, teacher: Any) -> Any:
        """Return (batch,): the mean squared error of the probabilities, or KL(teacher || student); float32."""
        import tensorflow as tf

        if self.consistency == "mse":
            return per_sample(tf.math.squared_difference(self._compared(student), self._compared(teacher)))
        ours, theirs = as_logits(student, self.form), as_logits(teacher, self.form)
        if self.exclusive:
            return per_sample(kl_of_logits(theirs, ours))
        on, off = tf.math.log_sigmoid(theirs), tf.math.log_sigmoid(-theirs)
        divergence = tf.exp(on) * (on - tf.math.log_sigmoid(ours)) + tf.exp(off) * (off - tf.math.log_sigmoid(-ours))
        return per_sample(divergence)

    def _compared(self, outputs: Any) -> Any:
        import tensorflow as tf

        outputs = tf.cast(outputs, tf.float32)
        if self.form != "logits":
            return outputs
        return tf.nn.softmax(outputs) if self.exclusive else tf.sigmoid(outputs)


class Ramp:
    """How far the weight of consistency has grown, over the first `share` of the steps of a `fit`."""

    def __init__(self, share: float) -> None:
        import tensorflow as tf

        self._share = share
        self._start_and_length = tf.Variable([0.0, 1.0], trainable=False)

    @property
    def variables(self) -> list[Any]:
        """The variables that hold start and length."""
        return [self._start_and_length]

    def on_fit_begin(self, steps_taken: Any, epochs: int, steps: int | None, first_epoch: int) -> None:
        """Record the start of `fit`. Raise RecipeError if its length is unknown."""
        if not self._share:
            return
        if not steps:
            raise RecipeError(
                "ramp_up is a fraction of all steps, whose number is unknown: pass fit steps_per_epoch or a dataset "
                "of known cardinality, or set ramp_up=0."
            )
        self._start_and_length.assign([float(steps_taken.numpy()) - first_epoch * steps, self._share * epochs * steps])

    def share(self, steps_taken: Any) -> Any:
        """Return the share of the weight, from exp(-5) to 1, by exp(-5 (1 - x)^2) (section 3.1 and appendix B)."""
        import tensorflow as tf

        if not self._share:
            return 1.0
        start, length = self._start_and_length[0], self._start_and_length[1]
        x = tf.clip_by_value((steps_taken - start) / length, 0.0, 1.0)
        return tf.exp(-5 * tf.square(1 - x))
