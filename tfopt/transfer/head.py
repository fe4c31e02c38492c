"""A new head on a trained body: what a model for another task begins with."""

from collections.abc import Callable
from typing import Any

from pydantic import Field, PositiveInt

from tfopt.base.config import config
from tfopt.errors import ModelError
from tfopt.models.sources import model_from
from tfopt.surgery.body import Body, body_of


@config
class Head:
    """The layers behind the features.

    Attributes:
        hidden: widths of the Dense layers before the output; none for a linear head.
        dropout: share of the values that are dropped before each Dense layer while training.
        activation: of the hidden layers.
    """

    hidden: tuple[PositiveInt, ...] = ()
    dropout: float = Field(default=0.0, ge=0, lt=1)
    activation: str = "relu"

    def layers(
        self, package: Any, outputs: int, activation: str | None, *, seed: int = 0, name: str = "head"
    ) -> list[Callable[[Any], Any]]:
        """New layers of `package` (`keras` or `tf_keras`) for features (batch, width), to be called one after another.

        The output layer has `outputs` units with `activation` and bears `name`. Weights are drawn from `seed`
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
    """A new model like `model` for another task: its body with its weights, and a fresh head.

    Args:
        model: a Keras 3 or tf_keras model, or whatever `feature_extractor` takes. It is not changed; nested models
            come back flat.
        outputs: width of the new output.
        activation: of the output: "softmax", "sigmoid" where labels do not exclude each other, None for values.
        head: `Head()`, one Dense layer, if None.
        layer: where the body ends, as in `feature_extractor`.
        seed: of the head's initial weights.

    Raises:
        ModelError: as `feature_extractor` does; a head without outputs.
    """
    if outputs < 1:
        raise ModelError(f"A head needs at least one output; got {outputs}.")
    model = model_from(model)
    return with_head(body_of(model, layer=layer), head or Head(), outputs, activation, seed=seed, name=model.name)


def with_head(body: Body, head: Head, outputs: int, activation: str | None, *, seed: int, name: str) -> Any:
    """The model `name` of `body` and fresh layers by `head`; the output layer is called "head" where that is free."""
    taken = {layer.name for layer in body.package.Model(body.inputs, body.features).layers}
    x = body.features
    called = "head" if "head" not in taken else "new_head"
    for layer in head.layers(body.package, outputs, activation, seed=seed, name=called):
        x = layer(x)
    return body.package.Model(body.inputs, x, name=name)
