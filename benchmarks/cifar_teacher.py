"""Train the teacher of the distillation benchmarks: a residual network of 1.6 million parameters on CIFAR-10.

    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher.keras
    python benchmarks/cifar_teacher.py --data cifar10/ --out teacher_1.keras --source mobilenet.keras --epochs 6

About ten times the FLOPs of the ResNet-8 student. With --source it is a pretrained model, fine-tuned on the images at
--size pixels. Images of 0..255 go in, logits come out.
"""

import os
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WIDTHS = (32, 64, 128, 256)
PEAK_LEARNING_RATE, MOMENTUM = 0.2, 0.9
WEIGHT_DECAY = 5e-3  # Keras does not put it through the momentum: equal to 5e-4 where it goes through
FINE_TUNING_RATE = 1e-3  # peak, of Adam
WARM_UP = 0.2  # share of the steps in which the learning rate rises


def teacher_model(policy: str) -> Any:
    """(32, 32, 3) float32 in 0..255 -> 10 logits, float32."""
    import keras
    from keras import layers

    keras.config.set_dtype_policy(policy)

    def block(x: Any, filters: int, *, pooled: bool = False, name: str | None = None) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        if pooled:
            x = layers.MaxPooling2D()(x)  # before the normalisation, which then has a quarter of the work
        return layers.ReLU(name=name)(layers.BatchNormalization(momentum=0.9)(x))

    def residual(x: Any, filters: int, name: str) -> Any:
        return layers.Add(name=name)([x, block(block(x, filters), filters)])

    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 64, -2.0)(inputs)
    x = block(x, WIDTHS[0])
    x = residual(block(x, WIDTHS[1], pooled=True), WIDTHS[1], "block_16x16")
    x = block(x, WIDTHS[2], pooled=True, name="block_8x8")
    x = residual(block(x, WIDTHS[3], pooled=True), WIDTHS[3], "block_4x4")
    x = layers.GlobalMaxPooling2D(name="features")(x)
    outputs = layers.Dense(10, dtype="float32", name="logits")(x)
    keras.config.set_dtype_policy("float32")
    return keras.Model(inputs, outputs, name="teacher")


def fine_tuned(source: str, size: int) -> Any:
    """(32, 32, 3) float32 in 0..255 -> 10 logits: enlarged, then -1..1 to the body of `source`."""
    import keras

    import tfopt

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(keras.layers.Resizing(size, size)(inputs))
    features = tfopt.feature_extractor(source, input_shape=(size, size, 3))(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(features), name="fine_tuned_teacher")


@click.command(help=__doc__)
@click.option("--data", required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--epochs", default=18, show_default=True)
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
    from tfopt.measure import accuracy

    dataset = tfopt.load_data(data)
    keras.utils.set_random_seed(seed)
    model = fine_tuned(source, size) if source else teacher_model(policy)
    steps = epochs * dataset.steps(batch_size)
    peak = FINE_TUNING_RATE if source else PEAK_LEARNING_RATE
    rates = peak * np.interp(np.arange(steps), [0, WARM_UP * steps, steps], [0.02, 1, 0])

    class OneCycle(keras.callbacks.Callback):
        """Up in a straight line to the peak, then down to zero (Smith & Topin 2017, arXiv:1708.07120)."""

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
