"""Run as a program: open attack files with plain Keras without safe mode, and report which of them work.

Read a JSON list of [path, kind, folder of the canary, name of its module] and write a list of what happened.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def seen(path: str, kind: str, folder: str, module: str) -> str:
    said = ""
    for settings in ({"compile": True}, {"compile": False}):
        try:
            said = str(opened(path, kind, settings))
        except BaseException as error:  # of any kind, because the file is hostile
            said = f"{type(error).__name__}: {error}"
        if Path(folder, "ran").exists() or module in sys.modules:
            return "ran"
        if kind == "keras3" and changed_setting():
            return "state"
        if "the-secret-of-another-file" in said:
            return "secret"
    return said[-300:]


def changed_setting() -> bool:
    import keras

    changed = keras.config.floatx() != "float32"
    keras.config.set_floatx("float32")
    return changed


def opened(path: str, kind: str, settings: dict[str, bool]) -> object:
    """What the model reveals or answers."""
    import tensorflow as tf

    if kind == "saved_model":
        loaded = tf.saved_model.load(path)
        return {name: function(tf.zeros((1, 4))) for name, function in loaded.signatures.items()}
    if kind == "tf_keras":
        import tf_keras as keras
    else:
        import keras
    model = keras.models.load_model(path, safe_mode=False, **settings)
    return [each.get_vocabulary() for each in model.layers if hasattr(each, "get_vocabulary")]


def main() -> None:
    warnings.simplefilter("ignore")
    attacks = json.loads(sys.stdin.read())
    answers = [seen(*attack) for attack in attacks]
    Path(sys.argv[1]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
