"""A new head on a trained body: the starting point of a model for another task."""

from collections.abc import Callable
from typing import Any

from pydantic import Field, PositiveInt

from tfopt.base.config import config
from tfopt.errors import ModelError
from tfopt.models.sources import model_from
from tfopt.surgery.body import Body, body_of


@config
class Head:
    """The layers after the features.

    Attributes:
        hidden: widths of the Dense layers before the output; none for a linear head.
        dropout: dropout rate before each Dense layer.
        activation: of the hidden layers.

    Examples:
        >>> head = tfopt.transfer.Head(hidden=(32,), dropout=0.2)
        >>> [layer.name for layer in tfopt.transfer.new_head(model, 5, head=head).layers][-4:]
        ['head_dropout_1', 'head_hidden_1', 'head_dropout_2', 'head']
    """

    hidden: tuple[PositiveInt, ...] = ()
    dropout: float = Field(default=0.0, ge=0, lt=1)
    activation: str = "relu"

    def layers(
        self, package: Any, outputs: int, activation: str | None, *, seed: int = 0, name: str = "head"
    ) -> list[Callable[[Any], Any]]:
        """Return new layers of `package` (`keras` or `tf_keras`) for features (batch, width), to be applied in order.

        The output layer has `outputs` units with `activation` and the name `name`. Weights are drawn from `seed`
        (Glorot & Bengio 2010).
        """
        made: list[Callable[[Any], Any]] = []
        for number, width in enumerate((*self.hidden, outputs)):
            last = number == len(self.hidden)
            if self.dropout:
                made.append(package.layers.Dropout(self.dropout, name=f"{name}_dropout_{number + 1}"))
            dense = package.layers.Dense(
                width,
                activation=activation if last else self.activation,
                kernel_initializer=package.initializers.GlorotUniform(seed=seed + number),
                name=name if last else f"{name}_hidden_{number + 1}",
            )
            made.append(dense)
        return made


def new_head(
    model: Any,
    outputs: int,
    *,
    activation: str | None = "softmax",
    head: Head | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> Any:
    """Return a model like `model` for another task: its body with its weights, and a fresh head.

    Args:
        model: a Keras 3 or tf_keras model, or anything `feature_extractor` accepts. It is not changed; nested models
            are flattened.
        outputs: width of the new output.
        activation: of the output: "softmax", "sigmoid" for labels that are not mutually exclusive, None for values.
        head: `Head()`, one Dense layer, if None.
        layer: where the body ends, as in `feature_extractor`.
        seed: of the head's initial weights.

    Returns:
        The new model.

    Raises:
        ModelError: as for `feature_extractor`; a head without outputs.

    Examples:
        >>> fresh = tfopt.transfer.new_head(model, 5)
        >>> fresh.output_shape
        (None, 5)
        >>> bool((fresh.get_layer("first").kernel.numpy() == model.get_layer("first").kernel.numpy()).all())
        True
    """
    if outputs < 1:
        raise ModelError(f"A head needs at least one output; got {outputs}.")
    model = model_from(model)
    return with_head(body_of(model, layer=layer), head or Head(), outputs, activation, seed=seed, name=model.name)


def with_head(body: Body, head: Head, outputs: int, activation: str | None, *, seed: int, name: str) -> Any:
    """Return the model `name` from `body` and fresh `head` layers; the output layer is named "head" if that is free."""
    taken = {layer.name for layer in body.package.Model(body.inputs, body.features).layers}
    x = body.features
    called = "head" if "head" not in taken else "new_head"
    for layer in head.layers(body.package, outputs, activation, seed=seed, name=called):
        x = layer(x)
    return body.package.Model(body.inputs, x, name=name)
