"""A small model for the built-in digits, so that every recipe runs without any file."""

from typing import Any

from tfopt.data import Dataset


def digits_model(data: Dataset, *, epochs: int = 20, seed: int = 0, callback: Any = None) -> Any:
    """A Keras 3 CNN for 8x8 digits (about 26,000 parameters), trained for `epochs` on `data`."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = data.train.x(), data.train.y()
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[callback] if callback else None)
    return model
