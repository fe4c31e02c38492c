"""Configs of reinitialized layers."""

from typing import Any

import numpy as np


def fresh(config: Any, rng: np.random.Generator) -> Any:
    """Return a copy of `config`, of a layer or a model, whose weights depend only on `rng` and the new input.

    Every initializer gets a separate seed, and nested layers lose the shapes that they were built for.
    """
    if isinstance(config, list | tuple):
        return [fresh(part, rng) for part in config]  # tf_keras wraps lists in its own class
    if not isinstance(config, dict):
        return config
    forgotten = "build_config" if "class_name" in config else None
    made = {key: fresh(value, rng) for key, value in config.items() if key != forgotten}
    inside = made.get("config")
    if "initializers" in str(made.get("module")) and isinstance(inside, dict) and "seed" in inside:
        made["config"] = {**inside, "seed": int(rng.integers(2**31))}
    return made
