"""Feature transfer: train a head on the features of a pretrained model, which runs only once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import override

from tfopt.base import keras_compat
from tfopt.base.config import config
from tfopt.base.progress import stopped_at_end
from tfopt.data import Dataset, fit_to_model
from tfopt.data.batches import without_weights
from tfopt.data.split import choose
from tfopt.errors import RecipeError
from tfopt.models.sources import model_from
from tfopt.surgery.body import Body, Pooling, body_of
from tfopt.tasks import task_of
from tfopt.tasks.scaling import TargetScale, moments
from tfopt.training.variables import build_metric, build_optimizer
from tfopt.transfer.features import features_of
from tfopt.transfer.head import Head, with_head
from tfopt.transfer.linear import can_fit, fit_linear_head, worse_by
from tfopt.transfer.transfer import Augment, Transfer, Transferred

EPOCHS, LEARNING_RATE = 30, 5e-3  # of Adam
FEW = 2**24  # samples x features (at most as many as samples) x outputs that a head is fitted on, not trained
FEW_IMAGES = 1000  # below it, several views of each image make a better head
CLEAR = 1.0  # standard errors by which more depths must be better than fewer
BYTES_IN_MEMORY = 2**29  # up to this size, `fit` gets the features as arrays, without an input pipeline


@config
class FeatureTransfer(Transfer):
    """Training of a head on the features of a frozen model.

    A linear head for few samples is fitted, not trained: logistic regression for classes and for labels that do not
    exclude each other, ridge regression for values, each with the L2 penalty that cross-validation on the training
    samples chooses. Adam trains all other heads: for many samples, with hidden layers or dropout, or if `epochs` or
    `learning_rate` is given. Weights of samples and classes count in either loss. Regression targets are normalized;
    the last layer returns to their units.

    Attributes:
        layer, pooling: where the features are taken; see `feature_extractor`.
        depths: "last" or "auto": features of several depths together, as many as the cross-validated loss of a linear
            head on training samples suggests (Evci et al. 2022, Head2Toe, arXiv:2201.03529). Meant for data unlike the
            source's; with few samples it mostly chooses the last.
        head: the layers to train.
        epochs: of Adam, passes over the features of the training images, all views of them; 30 if None.
        learning_rate: of Adam at the start; it decays to zero along a cosine. 0.005 if None.
        batch_size: of Adam, features per step.
        views: number of augmented views of each training image, each computed once; 1 uses the images unchanged. None
            takes up to 8 where there is augmentation and fewer than 1,000 training images, as far as a head can still
            be fitted. For new augmentation in every epoch, train with a frozen body instead: `FineTune`.

    Examples:
        >>> made = tfopt.transfer.FeatureTransfer().transferred(teacher, data)
        >>> made.model.output_shape
        (None, 10)
        >>> start = tfopt.transfer.FeatureTransfer(pooling="max")
        >>> recipe = tfopt.Recipe(transfer=start, stages=(tfopt.FineTune(), tfopt.Quantize()))
    """

    layer: str | None = None
    pooling: Pooling = "auto"
    depths: Literal["last", "auto"] = "last"
    head: Head = Field(default_factory=Head)
    epochs: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt = 64
    views: PositiveInt | None = None

    learns: ClassVar[bool] = True

    @override
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        source = model_from(source)
        body = self._body(source)
        return Transferred(self._whole(body, data, source.name), (body.describe(),))

    def _body(self, source: Any, depths: int | None = 1) -> Body:
        return body_of(source, layer=self.layer, pooling=self.pooling, input_shape=self.input_shape, depths=depths)

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

        `augment` is required to ask for several views; `cache` keeps the features, see `extract_features`. A loss that
        is not finite raises RecipeError.
        """
        source = model_from(source)
        body = self._body(source, None if self.depths == "auto" else 1)
        views = self._number_of_views(data, body, augment)
        if views > 1 and callable(augment):
            plain = dataclasses.replace(self, views=1).transferred(
                source, data, cache=cache, progress=progress, quiet=quiet
            )
            if (augment := augment(plain.model)) is None:
                return plain
            cache = cache and Path(cache, "views")  # beside the features of unchanged images
        model = self._whole(body, data, source.name)
        extractor = body.package.Model(body.inputs, body.features, name=source.name)
        features, _ = features_of(
            extractor,
            data,
            ("train", "validation"),
            views=views,
            augment=None if views == 1 or callable(augment) else augment,
            seed=self.seed,
            cache=cache,
            progress=progress,
            quiet=quiet,
        )
        train, validation = features["train"], features["validation"]
        seen = dataclasses.replace(data, train=train, validation=validation, test=validation)  # test is never read
        notes: list[str] = []
        if len(body.widths) > 1:
            depths, notes = self._chosen_depths(body.widths, seen, views)
            body = self._body(source, depths)
            model = self._whole(body, data, source.name)
            seen = _narrowed(seen, body.width)
        learned = self._learned(model, body.width, seen, views, progress)
        return Transferred(model, (body.describe(), *notes, *learned))

    def _number_of_views(self, data: Dataset, body: Body, augment: Augment) -> int:
        """Return `views`; if it is None, 1 or as many as make a better head from few images."""
        if self.views is not None:
            return self.views
        count = len(data.train)
        if augment is None or count >= FEW_IMAGES:
            return 1
        width, outputs = sum(body.widths), task_of(data).outputs
        allowed = [views for views in (2, 4, 8) if _products(views * count, width, outputs) <= FEW]
        return max(allowed, default=1)

    def _chosen_depths(self, widths: Sequence[int], features: Dataset, views: int) -> tuple[int, list[str]]:
        """Return the fewest depths whose cross-validated loss is the lowest or not clearly higher, and notes.

        The loss is that of a linear head on the unchanged training samples, as many as are few.
        """
        task, count = task_of(features), len(features.train) // views
        if not can_fit(task, features.train.labels):
            return 1, []
        limit = max(1, FEW // (sum(widths) * task.outputs))
        rows = choose(limit, task.groups(features.train.labels[:count]), np.random.default_rng(self.seed))
        x, y, weights = features.train.x(rows), features.train.y(rows), features.train.w(rows)
        losses: dict[int, np.ndarray] = {}
        for depths in (*(2**power for power in range(len(widths).bit_length()) if 2**power < len(widths)), len(widths)):
            found = fit_linear_head(x[:, : sum(widths[:depths])], y, task, weights=weights, seed=self.seed)
            if found.losses is None:
                return 1, ["features of the last depth: too few samples to choose"]
            losses[depths] = found.losses
        lowest = min(losses.values(), key=lambda loss: float(loss.mean()))
        best = next(depths for depths, loss in losses.items() if worse_by(loss, lowest) <= CLEAR)
        said = ", ".join(f"{depths}: {loss.mean():.4f}" for depths, loss in losses.items())
        return best, [f"features of {best} depths: cross-validated loss by number of depths {said}"]

    def _learned(self, model: Any, width: int, features: Dataset, views: int, progress: Any) -> list[str]:
        """Fit or train the head of `model`; return notes."""
        train, task = features.train, task_of(features)
        products = _products(len(train), width, task.outputs)
        why = self._why_adam(products, can_fit(task, train.labels) and train.inputs.nbytes <= BYTES_IN_MEMORY)
        if why:
            return self._trained_head(model, width, features, why, progress)
        found = fit_linear_head(train.x(), train.y(), task, weights=train.w(), seed=self.seed, views=views)
        model.layers[-1].set_weights([found.kernel, found.bias])
        return [f"head fitted on {len(train):,} features: {found.note}"]

    def _why_adam(self, products: int, known: bool) -> str:
        """Return why the head is trained with Adam, in words; "" if it is fitted."""
        if self.head.hidden or self.head.dropout:
            return "it has hidden layers or dropout"
        if self.epochs is not None or self.learning_rate is not None:
            return "epochs or learning_rate is given"
        if not known:
            return "all labels are equal or the features too large"
        return f"samples x features x outputs = {products:,} is over {FEW:,}" if products > FEW else ""

    def _trained_head(self, model: Any, width: int, features: Dataset, why: str, progress: Any) -> list[str]:
        """Train a copy of the head on normalized features, and copy its weights to `model`. tf_keras is faster."""
        package = keras_compat.tf_keras()
        package.utils.set_random_seed(self.seed)
        task = task_of(features)
        scale = None if task.has_probabilities else TargetScale.of(features.train.labels)
        features = features if scale is None else _normalized(features, scale)
        mean, deviation = moments(features.train.inputs)
        inputs = package.Input((width,))
        x = package.layers.Normalization(mean=mean, variance=deviation**2)(inputs)
        outputs, name = model.output_shape[-1], model.layers[-1].name
        for layer in self.head.layers(package, outputs, None, seed=self.seed, name=name):
            x = layer(x)
        flat_head = package.Model(inputs, x)
        epochs = self.epochs or EPOCHS
        rate = package.optimizers.schedules.CosineDecay(
            self.learning_rate or LEARNING_RATE, epochs * features.steps(self.batch_size)
        )
        optimizer = build_optimizer(package.optimizers.Adam(rate, jit_compile=False), flat_head)
        shown = build_metric(task.keras_metric, features.train.y(slice(1)).shape, flat_head.output_shape)
        flat_head.compile(optimizer, task.loss(logits=True), metrics=[shown], weighted_metrics=[])
        lines = [progress.callback("head")] if progress is not None else []
        with stopped_at_end(lines):
            history = flat_head.fit(**self._fit_arguments(features), epochs=epochs, callbacks=lines, verbose=0).history
        if not np.isfinite(history["loss"][-1]):
            raise RecipeError(
                f"The head's loss is {history['loss'][-1]}: lower FeatureTransfer's learning_rate, or look for extreme "
                "values in the features."
            )
        first, *others = [layer for layer in flat_head.layers if hasattr(layer, "units")]
        kernel, bias = first.get_weights()
        kernel = kernel / deviation[:, None]  # fold the normalization into the first layer
        weights = {first.name: (kernel, bias - mean @ kernel), **{each.name: each.get_weights() for each in others}}
        if scale is not None:
            weights[name] = scale.restored(*weights[name])
        for layer, values in weights.items():
            model.get_layer(layer).set_weights(list(values))
        metric, unit = task.keras_metric, "" if scale is None else " in standard deviations of the targets"
        figures = ", ".join(f"{name} {history[name][-1]:.4f}" for name in ("loss", metric, f"val_{metric}"))
        return [
            f"head trained on {len(features.train):,} features for {epochs} epochs of Adam, as {why}: {figures}{unit}"
        ]

    def _fit_arguments(self, features: Dataset) -> dict[str, Any]:
        """Return the arguments of `fit` for the features of both parts: arrays, or batches if they are too large."""
        train, validation = features.train, features.validation
        if train.inputs.nbytes > BYTES_IN_MEMORY:
            batches = features.batches("train", self.batch_size, shuffle=True, seed=self.seed)
            return {"x": batches, "validation_data": without_weights(features.batches("validation", 1024))}
        return {
            "x": train.x(),
            "y": train.y(),
            "sample_weight": train.w(),
            "batch_size": self.batch_size,
            "validation_data": (validation.x(), validation.y()),
            "validation_batch_size": 1024,
        }


def _products(count: int, width: int, outputs: int) -> int:
    """Return the work of fitting a head: an L2 penalty lets features rotate into as many dimensions as samples."""
    return count * min(count, width) * outputs


def _normalized(features: Dataset, scale: TargetScale) -> Dataset:
    """Return `features` with normalized targets in the parts that are trained and validated on."""
    train, validation = (
        dataclasses.replace(part, labels=scale.normalized(part.labels))
        for part in (features.train, features.validation)
    )
    return dataclasses.replace(features, train=train, validation=validation)


def _narrowed(features: Dataset, width: int) -> Dataset:
    """Return `features` with the first `width` columns."""
    train, validation = (
        dataclasses.replace(part, inputs=part.inputs[:, :width]) for part in (features.train, features.validation)
    )
    return dataclasses.replace(features, train=train, validation=validation, test=validation)
