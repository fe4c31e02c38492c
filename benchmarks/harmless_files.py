"""Load every model of `keras.applications`, in Keras 3 and tf_keras, without a flag: none may be refused.

    python benchmarks/harmless_files.py [NAME ...]

Builds each model without pretrained weights, saves it as `.keras` and `.h5`, and loads it. Reports but does not count
files that the Keras that wrote them cannot load. Prints a line for each, and the number of files at the end.
"""

import contextlib
import inspect
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tfopt
from tfopt.base import keras_compat


def applications(api: Any) -> Iterator[str]:
    """Return the names of all constructors in the package."""
    for name in sorted(dir(api.applications)):
        each = getattr(api.applications, name)
        if inspect.isfunction(each) and name[0].isupper():
            yield name


def build(api: Any, name: str) -> Any:
    """Return a model with random weights for the smallest images it accepts, without its top if that is large."""
    constructor = getattr(api.applications, name)
    settings: dict[str, Any] = {"weights": None, "include_top": False}
    for size in (32, 75, 224, 331):
        with contextlib.suppress(ValueError):
            return constructor(input_shape=(size, size, 3), **settings)
    return constructor(**settings)


def reads_back(api: Any, path: Path) -> bool:
    try:
        api.models.load_model(path, compile=False)
    except Exception as error:
        print(f"{path.name}: {type(error).__name__} in plain Keras", flush=True)
        return False
    return True


def main(chosen: list[str]) -> None:
    import keras

    tried, refused = 0, []
    for kind, api in (("Keras 3", keras), ("tf_keras", keras_compat.tf_keras())):
        for name in applications(api):
            if chosen and name not in chosen:
                continue
            model = build(api, name)
            for form in (".keras", ".h5"):
                with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    path = Path(folder) / f"{name}{form}"
                    model.save(path)
                    try:
                        tfopt.load_model(path)
                    except tfopt.ModelError as error:
                        if not reads_back(api, path):
                            continue
                        refused.append(f"{kind} {path.name}: {error}")
                    tried += 1
                    print(f"{kind} {path.name}", flush=True)
            del model
            api.backend.clear_session()
    print(f"{tried} files tried, {len(refused)} refused")
    print("\n".join(refused))


if __name__ == "__main__":
    main(sys.argv[1:])
