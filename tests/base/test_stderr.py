"""What TensorFlow's loggers print while tfopt works."""

import logging

import numpy as np

from tfopt.base.stderr import retracing_warnings_held


def test_only_retracing_goes_unmentioned(caplog):
    import keras

    logger = logging.getLogger("tensorflow")
    with caplog.at_level(logging.WARNING, "tensorflow"):
        with retracing_warnings_held():
            for _ in range(12):  # TensorFlow warns at the fifth
                keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).predict(np.zeros((1, 2)), verbose=0)
            logger.warning("something else")
        logger.warning("%s triggered tf.function retracing.", "f")
    assert caplog.messages == ["something else", "f triggered tf.function retracing."]
