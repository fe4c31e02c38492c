"""Train a small network on a table with gradient-boosted trees as its teacher, then export int8.

tfopt run recipes/tabular.py --data table.csv --labels target

The trees see the same features as the network: standardized numbers and one-hot categories. Without --data it learns
scikit-learn's breast cancer data. For values, such as prices, there is `tabular_values`.
"""

import tfopt

recipe = tfopt.Recipe(
    name="tabular",
    stages=(tfopt.FineTune(epochs=30, min_steps=300), tfopt.Quantize(epochs=4, learning_rate=2e-4)),
    distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(temperature=2.0, weight=0.5),)),
    training=tfopt.Training(learning_rate=3e-3, batch_size=32),
)


def example_data():
    """Return 569 rows of 30 numbers, of which a fifth is left out, and two classes."""
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    rows = np.rec.fromarrays(table.data.T, names=list(table.feature_names))
    return tfopt.load_data((rows, table.target), preprocessing=tfopt.inputs.Table())


def example_model(data):
    """Return an untrained network with two hidden layers."""
    import keras

    from tfopt.errors import RecipeError

    if data.num_classes is None:
        raise RecipeError("Expected classes in the column of labels, got values. Run tabular_values.")
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, activation="relu") for width in (32, 16)]
    ending = keras.layers.Dense(data.num_classes, activation="softmax")
    return keras.Sequential([keras.Input(data.input_shape), *hidden, ending])


def example_teacher(data):
    """Return gradient-boosted trees, fitted to the training rows; of few rows, leaves may hold few."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    fewest = max(2, min(20, len(data.train) // 20))
    return HistGradientBoostingClassifier(min_samples_leaf=fewest, random_state=0).fit(data.train.x(), data.train.y())


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_teacher, example_data=example_data, example_model=example_model)
