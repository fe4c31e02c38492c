"""The folder of a checkpoint in use."""

import json

import numpy as np

from tfopt.base.progress import Progress
from tfopt.run.run_folder import in_use, open_run_folder


def test_the_lock_stays_when_the_checkpoint_of_another_run_is_replaced(tmp_path):
    path = tmp_path / "checkpoint"
    (path / "transfer").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"seed": 1}))
    np.savez(path / "stages.npz", a=1)
    with in_use(path):
        before = (path / ".lock").stat().st_ino
        open_run_folder(path, {"seed": 2}, overwrite=True, progress=Progress(quiet=True))
        assert (path / ".lock").stat().st_ino == before
        assert [each.name for each in path.iterdir()] == [".lock"]
