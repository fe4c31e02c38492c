"""Train a small network that forecasts a series, and quantize it to int8 with quantization-aware training.

tfopt run recipes/forecasting.py --data load.csv --window 48 --horizon 12

The table has columns of numbers and a row for each step. A .npz of windows x (n, steps, columns) in the order of time,
and of the values after them y (n, horizon), goes without --window and --horizon. The model adds what dilated causal
convolutions find (WaveNet: van den Oord et al. 2016, arXiv:1609.03499) to the last value. Without --data it forecasts a
made-up load of a power grid.
"""

import tfopt

recipe = tfopt.Recipe(
    name="forecasting",
    stages=(tfopt.FineTune(epochs=30), tfopt.Quantize(epochs=5, learning_rate=2e-4)),
    training=tfopt.Training(learning_rate=3e-3, batch_size=64),
)


def example_data():
    """Return windows of two days of a made-up hourly load, and the twelve hours after them."""
    import numpy as np

    rng = np.random.default_rng(0)
    hour = np.arange(24 * 7 * 20)
    day, week = np.sin(2 * np.pi * (hour - 8) / 24), np.sin(2 * np.pi * hour / (24 * 7))
    weather = np.cumsum(rng.normal(0, 0.05, len(hour)))
    weather -= np.convolve(weather, np.ones(200) / 200, mode="same")  # it returns to its mean
    load = 5 + 1.5 * day * (1 + 0.3 * week) + 0.6 * week + 0.5 * weather + rng.normal(0, 0.1, len(hour))
    return tfopt.load_series(load, window=48, horizon=12)


def example_model(data):
    """Return an untrained network; it sees the differences from the last value, and adds them to it."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input(data.input_shape)
    last = layers.Cropping1D((data.input_shape[0] - 1, 0))(given)
    x = layers.Subtract()([given, last])
    for dilation in (1, 2, 4, 8):
        x = layers.Conv1D(32, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
    x = layers.Flatten()(layers.Cropping1D((data.input_shape[0] - 1, 0))(x))
    shape = data.train.target_shape
    count = shape[1] if len(shape) > 1 else 1
    columns = data.forecast_columns or range(count)
    if list(columns) != list(range(data.input_shape[1])):  # not all are forecast
        parts = [last[..., column : column + 1] for column in columns]
        last = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    change = layers.Dense(shape[0] * count)(layers.Dense(64, activation="relu")(x))
    if len(shape) > 1:  # several columns
        return keras.Model(given, layers.Add()([layers.Reshape(shape)(change), last]))
    return keras.Model(given, layers.Add()([change, layers.Flatten()(last)]))


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_data=example_data, example_model=example_model)
