"""Train one student on the classes of several teachers: pass each as --teacher, with its class names.

On the digits, one teacher has seen only 0 to 4, the other only 5 to 9. The student learns all ten from them; labels
only decide which teacher handles a sample.
"""

import tfopt

recipe = tfopt.Recipe(
    name="fuse_teachers",
    stages=(tfopt.FineTune(epochs=30), tfopt.Quantize(epochs=3, learning_rate=2e-4)),
    distillation=tfopt.Distillation(losses=(tfopt.losses.Hinton(weight=1.0),), alpha=0.0),
    training=tfopt.Training(learning_rate=2e-3, horizontal_flip=True, shift=0.125),
)


def example_teacher(data):
    """Return two teachers, each trained on half of the digits."""
    from tfopt.run.examples import digits_model, with_classes

    halves = data.class_names[:5], data.class_names[5:]
    experts = [
        tfopt.Teacher(digits_model(with_classes(data, half)), class_names=half, name=f"{half[0]} to {half[-1]}")
        for half in halves
    ]
    return tfopt.Ensemble(experts, class_names=data.class_names)


if __name__ == "__main__":
    tfopt.run_recipe(recipe, example_teacher)
