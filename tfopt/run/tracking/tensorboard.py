"""TensorBoard: scalars of training and validation in one chart each, the recipe, and the graph of the model."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from tfopt.run.tracking.tracker import Start, Tracker

VALIDATION = "val_"


class TensorBoard(Tracker):
    """Event files in `where`/NAME/TIME, by default below `logs`; `train` and `validation` are its runs."""

    title = "TensorBoard"

    @override
    def begin(self, start: Start) -> None:
        import tensorflow as tf

        folder = Path(self.where or "logs") / start.name / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        self._writers = {part: tf.summary.create_file_writer(str(folder / part)) for part in ("train", "validation")}
        rows = [f"| {name} | {value} |" for name, value in {**start.params, **start.versions}.items()]
        with self._writers["train"].as_default():
            tf.summary.text("recipe", "\n".join(["| setting | value |", "|---|---|", *rows]), step=0)

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        import tensorflow as tf

        for name, value in values.items():
            part = "validation" if name.startswith(VALIDATION) else "train"
            with self._writers[part].as_default():
                tf.summary.scalar(name.removeprefix(VALIDATION), value, step=step)
        for writer in self._writers.values():
            writer.flush()

    @override
    def show_model(self, model: Any) -> None:
        import tensorflow as tf

        specs = [tf.TensorSpec(each.shape, each.dtype, name=each.name) for each in model.inputs]
        traced = tf.function(lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0]))
        with self._writers["train"].as_default():
            tf.summary.graph(traced.get_concrete_function(*specs).graph)

    @override
    def end(self, files: Mapping[str, bytes], *, ok: bool) -> None:
        del files, ok
        for writer in self._writers.values():
            writer.close()
