"""Keep the calibration of a last stage without epochs: it may take hours, and the export may be interrupted."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.annotations import annotate, annotations
from tfopt.base.archives import read_state
from tfopt.base.files import atomic_path
from tfopt.base.reading import parse_json, reading
from tfopt.errors import DataError, OutputError
from tfopt.stages.quantize.integers import Integers, remember_integers
from tfopt.training.backup import Backup

_NAME = "calibrated.npz"


def keep_calibrated(model: Any, backup: Backup) -> None:
    """Keep weights, integers and summary of `model` in the folder of `backup`, if it knows nothing else."""
    known = annotations(model)
    if backup.folder is None or not backup.writes or known.samples is not None or known.shrinking is not None:
        return
    integers = known.integers or {}
    about = json.dumps([[*key, each.bits] for key, each in integers.items()])
    arrays = {f"weight_{number}": weight for number, weight in enumerate(model.get_weights())}
    arrays |= {f"integers_{number}": each.values for number, each in enumerate(integers.values())}
    summary = json.dumps(known.summary)
    try:
        with atomic_path(backup.folder / _NAME) as temporary, temporary.open("wb") as file:
            np.savez(file, about=about, summary=summary, **arrays)
    except (OSError, OutputError) as error:
        backup.progress.say(f"note: the checkpoint does not keep a calibration ({error}); the run goes on")


def restore_calibrated(model: Any, backup: Backup) -> bool:
    """Give `model`, from `apply`, what `keep_calibrated` has kept; return whether there was anything."""
    if backup.folder is None or not (path := backup.folder / _NAME).exists():
        return False
    try:
        with reading(lambda why: DataError(f"The checkpoint {path} is damaged ({why}).")):
            _restore(model, path)
    except DataError as error:
        backup.progress.say(f"note: {error} Ignoring it.")
        return False
    return True


def _restore(model: Any, path: Path) -> None:
    stored = read_state(path)
    weights = [stored[f"weight_{number}"] for number in range(len(model.weights))]
    about, summary = parse_json(str(stored["about"])), parse_json(str(stored["summary"]))
    integers = {
        (str(layer), str(kernel)): Integers(int(bits), stored[f"integers_{number}"])
        for number, (layer, kernel, bits) in enumerate(about)
    }
    model.set_weights(weights)
    remember_integers(model, integers)
    annotate(model, summary=tuple(map(str, summary)))
