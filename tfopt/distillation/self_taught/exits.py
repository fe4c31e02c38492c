"""Let a network teach its own shallow parts.

Zhang et al., "Be Your Own Teacher", ICCV 2019, arXiv:1905.08094.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tfopt.base.config import config
from tfopt.base.keras_compat import keras_of
from tfopt.distillation.learner import Learner, Row, StepResult, mean_over_samples, model_class
from tfopt.distillation.losses.formulas import per_sample, shrink_to_smaller, tempered_kl
from tfopt.distillation.student_form import student_form
from tfopt.errors import ModelError, RecipeError
from tfopt.graph.lookup import missing
from tfopt.graph.taps import on_rest, tapped
from tfopt.graph.types import is_layer
from tfopt.graph.walk import walk
from tfopt.tasks import Classification
from tfopt.tasks.responses import Form, as_logits


@config
class EarlyExits:
    """How exits learn: (1 - alpha) loss on labels + alpha T^2 KL(final || exit) + hint |F_final - F_exit|^2.

    Equations 2 to 4 of Zhang et al. 2019 (arXiv:1905.08094), with the mean over a feature's values instead of their
    sum. The final output learns from the labels alone, with weight 1.

    Attributes:
        alpha: weight of the final output relative to the labels (0.3 in the authors' code).
        temperature: T, by which logits are divided where outputs are compared.
        hint: weight of the distance between the deepest features and those of an exit (the authors' code: 0.03).
        deepest: the layer whose output is F_final; None takes the last one before the classifier whose output has as
            many axes as that of the first exit's layer, e.g. the last feature map before global pooling.

    Examples:
        >>> settings = tfopt.self_taught.EarlyExits(alpha=0.5, temperature=4.0, hint=0.0)
        >>> exits = tfopt.self_taught.early_exits(model, layers=("first",), settings=settings)
    """

    alpha: float = Field(default=0.3, ge=0, le=1)
    temperature: PositiveFloat = 3.0
    hint: NonNegativeFloat = 0.03
    deepest: str | None = None


def early_exits(model: Any, layers: Sequence[str], settings: EarlyExits | None = None) -> Any:
    """Return a model whose `fit` trains `model` together with a classifier on the output of each of `layers`.

    A head brings a feature to the width of the deepest ones by a 1x1 convolution with BatchNorm and ReLU, which is what
    the hint compares, then pools it and classifies it; it gives logits or probabilities, as the model does.
    Everything is one pass. No gradient flows from an exit into the final output or the deepest features as targets.

    `predict`, `evaluate`'s loss, `save`, `save_weights` and `export` are the model's own, without exits. The logs have
    "loss", "hard_loss" and the metrics of the final output, and for each exit "hard_loss_<layer>" as it is,
    "final_<layer>" (the KL) and "hint_<layer>" times their weights, and "<metric>_<layer>". After training `exits()` is
    a plain model with all outputs, and `exit(layer)` a smaller one that ends there; both share their layers with
    `model`.

    Args:
        model: a Keras 3 or tf_keras classifier with one input and one output. It is trained in place.
        layers: by name, from shallow to deep, as in `FitNets` and other losses on features.
        settings: `EarlyExits()` if None.

    Raises:
        ModelError: layers that are not there, whose output is no feature, or that come after the deepest features.
        RecipeError: no layers, or one twice.

    Examples:
        >>> exits = tfopt.self_taught.early_exits(model, layers=("first",))
        >>> exits.compile("adam", "sparse_categorical_crossentropy")
        >>> history = exits.fit(x, y, verbose=0)
        >>> exits.exit("first").output_shape
        (None, 10)
    """
    settings = settings or EarlyExits()
    layers = list(layers)
    if not layers or len(set(layers)) < len(layers):
        raise RecipeError(f"Expected the names of one or more layers, each once; got {layers}.")
    output = on_rest(model)
    if output.ndim != 2 or output.shape[1] < 2:
        raise ModelError(f"Early exits need a classifier with outputs (batch, classes); got {output.shape}.")
    form = student_form(output, Classification.kind)
    return model_class(_Exits, keras_of(model).__name__)(model, layers, settings, form)


class _Exits(Learner):
    def __init__(self, student: Any, layers: list[str], settings: EarlyExits, form: Form) -> None:
        names = [name.replace("/", "_") for name in layers]
        terms = [*(f"final_{name}" for name in names), *(f"hint_{name}" for name in names if settings.hint)]
        rows = [Row(), *(Row(f"_{name}", 1 - settings.alpha, evaluation_weight=0.0) for name in names)]
        super().__init__(student, f"exits_of_{student.name}", rows, terms)
        self.student = student
        self.settings = settings
        self._form, self._layers_of_exits = form, tuple(layers)
        deepest = settings.deepest or _deepest(student, layers[0])
        if deepest in layers:
            raise ModelError(
                f"The exit '{deepest}' is at the deepest features, where the model itself ends; leave it out."
            )
        self._tapped = tapped(student, [*layers, deepest])
        features = list(self._tapped.outputs[1:])
        classes = int(self._tapped.outputs[0].shape[-1])
        self.heads = [
            _head(keras_of(student), name, tuple(feature.shape)[1:], int(features[-1].shape[-1]), classes, form)
            for name, feature in zip(names, features[:-1], strict=True)
        ]

    def exits(self) -> Any:
        """Return an ordinary model of the same Keras with outputs [exit, ..., final], to save, export or train."""
        outputs = [self._exit_output(place) for place in range(len(self.heads))]
        api = keras_of(self.student)
        return api.Model(self._tapped.inputs, [*outputs, self._tapped.outputs[0]], name=f"{self.student.name}_exits")

    def exit(self, layer: str) -> Any:
        """Return a smaller model of the same Keras that ends at the exit of `layer`. Raise ModelError if unknown."""
        if layer not in self._layers_of_exits:
            raise missing(layer, f"exits of {self.student.name}", self._layers_of_exits)
        place = self._layers_of_exits.index(layer)
        name = f"{self.student.name}_until_{layer.replace('/', '_')}"
        return keras_of(self.student).Model(self._tapped.inputs, self._exit_output(place), name=name)

    def _exit_output(self, place: int) -> Any:
        head = self.heads[place]
        classifier = keras_of(self.student).Model(head.inputs, head.outputs[1], name=head.name)
        return classifier(self._tapped.outputs[1 + place])

    def evaluation_outputs(self, x: Any) -> Sequence[Any]:
        return self._all(x, training=False)[0]

    def learning_step(self, x: Any, y: Any, sample_weight: Any) -> StepResult:
        del y
        import tensorflow as tf

        outputs, features, deepest = self._all(x, training=True)
        final, *exits = [as_logits(output, self._form) for output in outputs]
        taught, settings = tf.stop_gradient(final), self.settings
        gaps = [settings.alpha * tempered_kl(taught, logits, settings.temperature) for logits in exits]
        if settings.hint:
            target = tf.stop_gradient(tf.cast(deepest, tf.float32))
            gaps += [settings.hint * hint(target, tf.cast(feature, tf.float32)) for feature in features]
        return StepResult(outputs, [mean_over_samples(gap, sample_weight) for gap in gaps])

    def _all(self, x: Any, *, training: bool) -> tuple[list[Any], list[Any], Any]:
        """Return the outputs (final, exits), the bottleneck features of the exits, and the deepest features."""
        import tensorflow as tf

        final, *inner, deepest = tf.nest.flatten(self._tapped(x, training=training))
        made = [head(feature, training=training) for head, feature in zip(self.heads, inner, strict=True)]
        return [final, *(output for _, output in made)], [feature for feature, _ in made], deepest


def hint(target: Any, feature: Any) -> Any:
    """Return (batch,): the mean squared distance between two (batch, ..., channels) features.

    A larger feature map is compared by its averages over equal stretches, as in `FitNets`.
    """
    import tensorflow as tf

    if feature.shape.rank > 2:
        target, feature = shrink_to_smaller(target, feature)
    return per_sample(tf.math.squared_difference(target, feature))


def _head(api: Any, name: str, shape: tuple[int | None, ...], width: int, classes: int, form: Form) -> Any:
    """Return a model from a feature (..., channels) to [bottleneck feature (..., width), output (classes,)]."""
    layers, axes = api.layers, len(shape) - 1
    if not 0 <= axes <= 3:
        raise ModelError(
            f"The output of layer '{name}' has shape {shape}; an exit takes (channels,) and up to 3 more axes."
        )
    inputs = api.Input(shape)
    if axes:
        narrow: Any = getattr(layers, f"Conv{axes}D")(width, 1, use_bias=False, name="bottleneck")
    else:
        narrow = layers.Dense(width, use_bias=False, name="bottleneck")
    feature = layers.ReLU(name="bottleneck_relu")(layers.BatchNormalization(name="bottleneck_norm")(narrow(inputs)))
    pooled = getattr(layers, f"GlobalAveragePooling{axes}D")(name="pool")(feature) if axes else feature
    activation = "softmax" if form == "softmax" else None
    output = layers.Dense(classes, activation=activation, dtype="float32", name="out")
    return api.Model(inputs, [feature, output(pooled)], name=f"exit_{name}")


def _deepest(model: Any, first: str) -> str:
    """Return the path of the last layer before the classifier whose output has as many axes as layer `first`'s."""
    wanted = len(tapped(model, [first]).outputs[1].shape)
    graph = walk(model, keep_names=True)
    calls = [call for call in graph.calls if is_layer(call.leaf.layer)]
    weighted = [place for place, call in enumerate(calls) if call.leaf.layer.weights]
    before = calls[: weighted[-1]] if weighted else []
    paths = [call.leaf.path for call in before if len(call.outputs[0].shape or ()) == wanted]
    if not paths:
        raise ModelError(
            f"'{model.name}' has no features like those of '{first}' before its classifier; pass deepest=."
        )
    return paths[-1]
