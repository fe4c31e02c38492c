"""Train the teacher of the distillation benchmarks: a convolutional network of 1.2 million parameters on CIFAR-10.

    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher.keras
    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher_1.keras --source mobilenet.keras --epochs 6

It has about six times the FLOPs of the ResNet-8 student. With --source, fine-tune a pretrained model on the images at
--size pixels instead. Inputs are images in 0..255, outputs are logits.
"""

import os
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WIDTHS = (64, 128, 256)  # of the stages at 16 x 16, 8 x 8 and 4 x 4
PEAK_LEARNING_RATE, MOMENTUM = 0.25, 0.9
WEIGHT_DECAY = 8e-3  # Keras does not apply momentum to it: equals 8e-4 with momentum
LOGIT_SCALE = 1 / 8  # keeps the logits of a new network small (Jordan 2024, arXiv:2404.00498, as is the whitening)
WHITENING_IMAGES, WHITENING_FLOOR = 5000, 1e-3
FINE_TUNING_RATE = 1e-3  # peak, of Adam
WARM_UP = 0.2  # fraction of steps with a rising learning rate


def teacher_model(policy: str, widths: tuple[int, ...] = WIDTHS) -> Any:
    """Return the teacher: (32, 32, 3) float32 in 0..255 -> 10 logits, float32."""
    import keras
    from keras import layers

    keras.config.set_dtype_policy(policy)

    def block(x: Any, filters: int, *, pooled: bool = False, name: str | None = None) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        if pooled:
            x = layers.MaxPooling2D()(x)  # before normalization, which then does a quarter of the work
        return layers.ReLU(name=name)(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 64, -2.0)(inputs)
    x = layers.ReLU()(layers.Conv2D(24, 2, padding="same", trainable=False, name="whitening")(x))
    for size, filters in zip((16, 8, 4), widths, strict=True):
        x = block(block(x, filters, pooled=True), filters, name=f"block_{size}x{size}")
    x = layers.GlobalMaxPooling2D(name="features")(x)
    x = layers.Dense(10, dtype="float32")(x)
    outputs = layers.Rescaling(LOGIT_SCALE, dtype="float32", name="logits")(x)
    keras.config.set_dtype_policy("float32")
    return keras.Model(inputs, outputs, name="teacher")


def whiten(model: Any, images: Any) -> None:
    """Set the first layer of `teacher_model` to the whitened principal components of 2 x 2 patches and their negatives.

    images: (n, 32, 32, 3), 0..255.
    """
    import numpy as np

    pixels = np.asarray(images, np.float64) / 64 - 2
    corners = [pixels[:, row : row + 31, column : column + 31] for row in (0, 1) for column in (0, 1)]
    patches = np.stack(corners, axis=3).reshape(-1, 12)
    variances, components = np.linalg.eigh(np.cov(patches, rowvar=False))
    kernel = (components / np.sqrt(variances + WHITENING_FLOOR)).reshape(2, 2, 3, 12)
    model.get_layer("whitening").set_weights([np.concatenate([kernel, -kernel], axis=-1), np.zeros(24)])


def fine_tuned(source: str, size: int) -> Any:
    """Return a model from (32, 32, 3) in 0..255 to 10 logits: enlarge, scale to -1..1, apply the body of `source`."""
    import keras

    import tfopt

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(keras.layers.Resizing(size, size)(inputs))
    features = tfopt.transfer.feature_extractor(source, input_shape=(size, size, 3))(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(features), name="fine_tuned_teacher")


@click.command(help=__doc__)
@click.option("--data", required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--epochs", default=14, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--policy", default="mixed_bfloat16", show_default=True, help="Of Keras; float32 where there is no bf16.")
@click.option("--seed", default=0, show_default=True)
@click.option("--source", help="A pretrained Keras model that takes -1..1, to fine-tune instead.")
@click.option("--size", default=96, show_default=True, help="Pixels that --source sees.")
def main(
    data: str, out: Path, epochs: int, batch_size: int, policy: str, seed: int, source: str | None, size: int
) -> None:
    import keras
    import numpy as np

    import tfopt
    from tfopt.tasks.metrics import accuracy

    dataset = tfopt.load_data(data)
    keras.utils.set_random_seed(seed)
    if source:
        model = fine_tuned(source, size)
    else:
        model = teacher_model(policy)
        whiten(model, dataset.train.x(np.arange(WHITENING_IMAGES)))
    steps = epochs * dataset.steps(batch_size)
    peak = FINE_TUNING_RATE if source else PEAK_LEARNING_RATE
    rates = peak * np.interp(np.arange(steps), [0, WARM_UP * steps, steps], [0.02, 1, 0])

    class OneCycle(keras.callbacks.Callback):
        """Raise the rate linearly to the peak, then lower it to zero (Smith & Topin 2017, arXiv:1708.07120)."""

        step = 0

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            del batch, logs
            self.model.optimizer.learning_rate = rates[self.step]
            self.step += 1

    sgd = keras.optimizers.SGD(0.1, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    model.compile(
        keras.optimizers.Adam() if source else sgd,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    augment = tfopt.Augmentation(horizontal_flip=True, shift=0.125)
    started = time.perf_counter()
    model.fit(
        dataset.batches("train", batch_size, shuffle=True, seed=seed, augment=augment),
        epochs=epochs,
        validation_data=dataset.batches("validation", 500),
        callbacks=[OneCycle(), keras.callbacks.ModelCheckpoint(out.with_suffix(".last.keras"))],
        verbose=2,
    )
    model.save(out)
    right = accuracy(model.predict(dataset.test.x(), batch_size=500, verbose=0), dataset.test.y())
    click.echo(f"{right:.4f} on {len(dataset.test):,} test images, {time.perf_counter() - started:.0f} s, {out}")


if __name__ == "__main__":
    main()
