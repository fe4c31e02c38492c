"""Train a small text classifier and quantize it to int8 with quantization-aware training.

tfopt run recipes/text_classification.py --data reviews.csv --text review --labels stars

The model takes the maxima of convolutions over 2 to 5 embedded words (Kim 2014, arXiv:1408.5882). Without --data it
learns made-up sentences.
"""

import tfopt

recipe = tfopt.Recipe(
    name="text_classification",
    stages=(tfopt.FineTune(epochs=8), tfopt.Quantize(epochs=2, learning_rate=1e-4)),
    training=tfopt.Training(learning_rate=2e-3, batch_size=32),
)


def example_data():
    """Return 1,000 made-up opinions, about half of them good ones; a fifth negate the word that decides."""
    import numpy as np

    rng = np.random.default_rng(0)
    words = {1: ["great", "lovely", "brilliant", "fresh"], 0: ["dull", "awful", "boring", "weak"]}
    subjects = ["film", "plot", "cast", "ending", "music", "camera", "title", "script"]
    texts, labels = [], rng.integers(0, 2, 1000)
    for label in labels:
        negated = rng.random() < 0.2
        opinion = rng.choice(words[int(label) ^ int(negated)])
        first, second, third = rng.choice(subjects, 3, replace=False)
        texts.append(f"The {first} and the {second} were {'not ' if negated else ''}{opinion}; about the {third} ...")
    return tfopt.load_data((np.array(texts, object), labels), preprocessing=tfopt.inputs.Text())


def example_model(data):
    """Return an untrained classifier of token ids."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    ids = keras.Input(data.input_shape, dtype="int32")
    words = layers.Dropout(0.5)(layers.Embedding(len(data.preprocessing.vocabulary), 64)(ids))
    convolutions = [layers.Conv1D(64, width, padding="same", activation="relu") for width in (2, 3, 4, 5)]
    found = layers.Concatenate()([layers.GlobalMaxPooling1D()(convolution(words)) for convolution in convolutions])
    classes = layers.Dense(data.num_classes, activation="softmax")(layers.Dropout(0.5)(found))
    return keras.Model(ids, classes, name="text_classifier")


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_data=example_data, example_model=example_model)
