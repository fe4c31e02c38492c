"""Train a small network on a table of values, such as prices, with gradient-boosted trees as its teacher; export int8.

tfopt run recipes/tabular_values.py --data table.csv --labels price --task regression

As recipe `tabular`, which is for classes. Without --data it learns scikit-learn's diabetes data.
"""

import tfopt

recipe = tfopt.Recipe(
    name="tabular_values",
    stages=(tfopt.FineTune(epochs=30, min_steps=600), tfopt.Quantize(epochs=4, learning_rate=2e-4)),
    distillation=tfopt.Distillation(losses=(tfopt.losses.RegressionKD(weight=0.5),)),
    training=tfopt.Training(learning_rate=3e-3, batch_size=32),
)


def example_data():
    """Return 442 rows of 10 numbers, of which a fifth is left out, and how far the disease has progressed in a year."""
    import numpy as np
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    rows = np.rec.fromarrays(table.data.T, names=table.feature_names)
    return tfopt.load_data((rows, table.target), task="regression", preprocessing=tfopt.inputs.Table())


def example_model(data):
    """Return an untrained network with two hidden layers."""
    import keras

    from tfopt.errors import RecipeError
    from tfopt.tasks import task_of

    if data.num_classes is not None:
        raise RecipeError(
            "Expected values in the column of labels, got classes. Give --task regression, or run tabular."
        )
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, activation="relu") for width in (32, 16)]
    return keras.Sequential([keras.Input(data.input_shape), *hidden, keras.layers.Dense(task_of(data).outputs)])


def example_teacher(data):
    """Return gradient-boosted trees for each value, fitted to the training rows; of few rows, leaves may hold few."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    fewest = max(2, min(20, len(data.train) // 20))
    trees = HistGradientBoostingRegressor(min_samples_leaf=fewest, random_state=0)
    values = data.train.y().reshape(len(data.train), -1)
    return MultiOutputRegressor(trees).fit(data.train.x(), values)


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_teacher, example_data=example_data, example_model=example_model)
