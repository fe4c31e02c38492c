"""Feature transfer: train a head on the features of a pretrained model, which runs only once."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import override

from tfopt.base import keras_compat
from tfopt.base.config import config
from tfopt.data import Dataset, fit_to_model
from tfopt.errors import RecipeError
from tfopt.models.sources import model_from
from tfopt.surgery.body import Body, Pooling, body_of
from tfopt.tasks import task_of
from tfopt.training.variables import build_metric, build_optimizer
from tfopt.transfer.features import features_of
from tfopt.transfer.head import Head, with_head
from tfopt.transfer.transfer import Augment, Transfer, Transferred

ROWS_AT_ONCE = 2**14
BYTES_IN_MEMORY = 2**29  # up to this size, `fit` gets the features as arrays, without an input pipeline


@config
class FeatureTransfer(Transfer):
    """Training of a head on the features of a frozen model.

    Attributes:
        layer, pooling: where the features are taken; see `feature_extractor`.
        head: the layers to train.
        epochs: passes over the features of the training images, all views of them.
        learning_rate: initial rate of Adam; it decays to zero along a cosine.
        batch_size: features per step.
        views: number of augmented views of each training image, each computed once; 1 uses the images unchanged. For
            new augmentation in every epoch, train with a frozen body instead: `FineTune`.
    """

    layer: str | None = None
    pooling: Pooling = "auto"
    head: Head = Field(default_factory=Head)
    epochs: PositiveInt = 30
    learning_rate: PositiveFloat = 5e-3
    batch_size: PositiveInt = 64
    views: PositiveInt = 1

    learns: ClassVar[bool] = True

    @override
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        source = model_from(source)
        body = self._body(source)
        return Transferred(self._whole(body, data, source.name), (body.describe(),))

    def _body(self, source: Any) -> Body:
        return body_of(source, layer=self.layer, pooling=self.pooling, input_shape=self.input_shape)

    def _whole(self, body: Body, data: Dataset, name: str) -> Any:
        task = task_of(data)
        model = with_head(body, self.head, task.outputs, task.activation, seed=self.seed, name=f"{name}_transferred")
        fit_to_model(data, model.input_shape[1:], task.outputs)
        return model

    def transferred(
        self,
        source: Any,
        data: Dataset,
        *,
        augment: Augment = None,
        cache: str | Path | None = None,
        progress: Any = None,
        quiet: bool = False,
    ) -> Transferred:
        """Return the body of `source` with a head trained on `data`.

        `augment` is required for several views; `cache` keeps the features, see `extract_features`. A loss that is not
        finite raises RecipeError.
        """
        source = model_from(source)
        if self.views > 1 and callable(augment):
            plain = dataclasses.replace(self, views=1).transferred(
                source, data, cache=cache, progress=progress, quiet=quiet
            )
            if (augment := augment(plain.model)) is None:
                return plain
        body = self._body(source)
        model = self._whole(body, data, source.name)
        extractor = body.package.Model(body.inputs, body.features, name=source.name)
        features, _ = features_of(
            extractor,
            data,
            ("train", "validation"),
            views=self.views,
            augment=None if self.views == 1 or callable(augment) else augment,
            seed=self.seed,
            cache=cache,
            progress=progress,
            quiet=quiet,
        )
        train, validation = features["train"], features["validation"]
        seen = dataclasses.replace(data, train=train, validation=validation, test=validation)  # test is never read
        learned = self._trained_head(model, body.width, seen, progress)
        return Transferred(model, (body.describe(), *learned))

    def _trained_head(self, model: Any, width: int, features: Dataset, progress: Any) -> list[str]:
        """Train a copy of the head on normalized features, and copy its weights to `model`. tf_keras is faster."""
        package = keras_compat.tf_keras()
        package.utils.set_random_seed(self.seed)
        mean, deviation = _moments(features.train.inputs)
        inputs = package.Input((width,))
        x = package.layers.Normalization(mean=mean, variance=deviation**2)(inputs)
        outputs, name = model.output_shape[-1], model.layers[-1].name
        for layer in self.head.layers(package, outputs, None, seed=self.seed, name=name):
            x = layer(x)
        flat_head = package.Model(inputs, x)
        steps = self.epochs * features.steps(self.batch_size)
        rate = package.optimizers.schedules.CosineDecay(self.learning_rate, steps)
        task = task_of(features)
        optimizer = build_optimizer(package.optimizers.Adam(rate, jit_compile=False), flat_head)
        metric = build_metric(task.keras_metric, features.train.y(slice(1)).shape, flat_head.output_shape)
        flat_head.compile(optimizer, task.loss(logits=True), metrics=[metric])
        lines = [progress.callback("head")] if progress is not None else []
        history = flat_head.fit(**self._fit_arguments(features), epochs=self.epochs, callbacks=lines, verbose=0).history
        if not np.isfinite(history["loss"][-1]):
            raise RecipeError(
                f"The head's loss is {history['loss'][-1]}: lower FeatureTransfer's learning_rate, or look for extreme "
                "values in the features."
            )
        first, *others = [layer for layer in flat_head.layers if hasattr(layer, "units")]
        kernel, bias = first.get_weights()
        kernel = kernel / deviation[:, None]  # fold the normalization into the first layer
        model.get_layer(first.name).set_weights([kernel, bias - mean @ kernel])
        for layer in others:
            model.get_layer(layer.name).set_weights(layer.get_weights())
        metric = task.keras_metric
        told = ", ".join(f"{name} {history[name][-1]:.4f}" for name in ("loss", metric, f"val_{metric}"))
        return [f"head trained on {len(features.train):,} features for {self.epochs} epochs: {told}"]

    def _fit_arguments(self, features: Dataset) -> dict[str, Any]:
        """Return the arguments of `fit` for the features of both parts: arrays, or batches if they are too large."""
        train, validation = features.train, features.validation
        if train.inputs.nbytes > BYTES_IN_MEMORY:
            batches = features.batches("train", self.batch_size, shuffle=True, seed=self.seed)
            return {"x": batches, "validation_data": features.batches("validation", 1024)}
        return {
            "x": train.x(),
            "y": train.y(),
            "batch_size": self.batch_size,
            "validation_data": (validation.x(), validation.y()),
            "validation_batch_size": 1024,
        }


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature in (n, width), float64; 1 for constant features."""

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        starts = range(0, len(features), ROWS_AT_ONCE)
        parts = (np.asarray(features[start : start + ROWS_AT_ONCE], np.float64) for start in starts)
        total: np.ndarray = sum(function(part).sum(axis=0) for part in parts) / len(features)
        return total

    mean = mean_of(lambda part: part)
    deviation = np.sqrt(mean_of(lambda part: np.square(part - mean)))
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
