"""DepthStudy: measure how many layers of a model are worth transferring.

Yosinski, Clune, Bengio & Lipson, "How transferable are features in deep neural networks?", NeurIPS 2014,
arXiv:1411.1792. A is the source task, B the new one. In a network for B, the layers up to a cut are copied from a
network for A (AnB) or for B (BnB) and frozen; the layers above are reinitialized. With a plus, all layers are trained.
"""

import functools
import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.base.archives import read_state
from tfopt.base.config import config
from tfopt.base.files import atomic_path
from tfopt.base.finite_json import json_text
from tfopt.base.locks import locked
from tfopt.base.progress import Progress, stopped_at_end
from tfopt.base.reading import reading
from tfopt.data import Augmentation, Dataset
from tfopt.data.predicting import outputs_for
from tfopt.errors import DataError, ModelError, OutputError
from tfopt.models.sources import model_from
from tfopt.tasks import task_of
from tfopt.tasks.metrics import accuracy
from tfopt.training.backup import Backup
from tfopt.training.freezing import frozen, layers_in_order
from tfopt.training.settings import SEEDS
from tfopt.training.variables import build_metric, build_optimizer
from tfopt.transfer.parameters import transfer_weights
from tfopt.transfer.transfer import Augment, Transfer, Transferred

KINDS = ("AnB", "AnB+", "BnB", "BnB+")


@dataclass(frozen=True)
class Trained:
    """One network of the study.

    Attributes:
        kind: of `KINDS`, or "B": trained on the new task from scratch.
        cut: the last transferred layer; None for "B".
        validation, test: accuracy.
        weights: of the network, in its model's order.
    """

    kind: str
    cut: str | None
    validation: float
    test: float
    weights: list[np.ndarray]


@config
class DepthStudy(Transfer):
    """Train networks with increasing numbers of source layers, and continue with the best on the validation images.

    The curve is saved with the results, as `depth_study.png` and `depth_study.json`. The study takes one training from
    scratch on the new task and four for each cut.

    Attributes:
        cuts: the layers after which the source is cut, by name or path; None chooses up to `places` among all.
        places: number of cuts to choose, spread evenly over the depth.
        epochs, learning_rate, batch_size: of each training, with Adam and a cosine schedule.

    Examples:
        >>> study = tfopt.transfer.DepthStudy(cuts=("first", "second"), epochs=20)
        >>> recipe = tfopt.Recipe(transfer=study, stages=(tfopt.FineTune(),))
    """

    cuts: tuple[str, ...] | None = None
    places: PositiveInt = 4
    epochs: PositiveInt = 20
    learning_rate: PositiveFloat = 1e-3
    batch_size: PositiveInt = 64

    learns: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    @override
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        if not task_of(data).has_classes:
            raise DataError(f"A depth study compares accuracies; expected a classification, got {data.task}.")
        source = model_from(source)
        fresh = self.fresh(source, data)
        cuts = self.cuts or chosen_cuts(fresh, self.places)
        for cut in cuts:
            transfer_weights(source, fresh, first=cut)  # raises for an unknown layer
        return Transferred(fresh, (f"cut after {', '.join(cuts)}",))

    def transferred(
        self,
        source: Any,
        data: Dataset,
        *,
        augment: Augment = None,
        cache: str | Path | None = None,
        progress: Any = None,
        quiet: bool = False,
    ) -> Transferred:
        """Return the best network of the study, with all layers trainable; `cache` keeps each finished network.

        An `Augmentation` is applied as is. A function that would choose one is not called, because no model has been
        trained yet.
        """
        del quiet
        source = model_from(source)
        self.untrained(source, data)
        study = _Study(self, source, data, None if callable(augment) else augment, cache, progress)
        runs = study.runs()
        best = max(runs, key=lambda run: run.validation)
        flat_model = bridge.to_tf_keras(study.fresh)
        flat_model.set_weights(best.weights)
        note = f"{best.kind} cut after '{best.cut}'" if best.cut else "nothing transferred"
        chosen = f"best on the validation images: {note}"
        notes = [
            f"{run.kind}{f' after {run.cut}' if run.cut else ''}: {run.validation:.4f} validation, {run.test:.4f} test"
            for run in runs
        ]
        files = {"depth_study.json": _as_json(runs), "depth_study.png": _plotted(runs)}
        return Transferred(bridge.to_keras(flat_model, like=study.fresh), (chosen, *notes), files)


def chosen_cuts(model: Any, places: int) -> tuple[str, ...]:
    """Return up to `places` evenly spread layers to cut `model` (flat) after: each the last before another kernel."""
    weighted = [leaf for leaf in layers_in_order(model) if leaf.layer.weights]
    begins = [place for place, leaf in enumerate(weighted) if any(len(w.shape) > 1 for w in leaf.layer.weights)]
    ends = [weighted[place - 1].name for place in begins[1:]]
    if not ends:
        raise ModelError(f"'{model.name}' has one layer with a kernel; there is nothing to cut.")
    wanted = np.unique(np.linspace(0, len(ends) - 1, min(places, len(ends))).round().astype(int))
    return tuple(ends[place] for place in wanted)


class _Study:
    def __init__(
        self,
        settings: DepthStudy,
        source: Any,
        data: Dataset,
        augment: Augmentation | None,
        cache: str | Path | None,
        progress: Any,
    ) -> None:
        self.settings, self.source, self.data = settings, source, data
        self.augment, self.progress = augment, progress
        self.folder = None if cache is None else Path(cache)
        self.fresh = settings.fresh(source, data)
        self.cuts = settings.cuts or chosen_cuts(self.fresh, settings.places)
        digest = hashlib.sha256(json.dumps([settings.to_dict(), str(augment), data.fingerprint]).encode())
        for weight in source.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
        self.key = digest.hexdigest()[:16]

    def runs(self) -> list[Trained]:
        first = self._run("B", None, 0, None)
        flat_model = bridge.to_tf_keras(self.fresh)
        flat_model.set_weights(first.weights)
        wanted = [(kind, cut) for cut in self.cuts for kind in KINDS]
        others = [
            self._run(kind, cut, number, self.source if kind.startswith("A") else flat_model)
            for number, (kind, cut) in enumerate(wanted, start=1)
        ]
        return [first, *others]

    def _run(self, kind: str, cut: str | None, number: int, base: Any) -> Trained:
        label = f"{number + 1}/{1 + len(KINDS) * len(self.cuts)} {kind}{f' {cut}' if cut else ''}"
        if self.folder is None:
            return self._trained(kind, cut, number, base, label, None)
        path = self.folder / f"depth_study-{self.key}-{number}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.stem}.lock"), f"The study in {self.folder}", wait=self._progress.say):
            return self._kept(kind, cut, path) or self._trained(kind, cut, number, base, label, path)

    @property
    def _progress(self) -> Progress:
        return self.progress or Progress(quiet=True)

    def _kept(self, kind: str, cut: str | None, path: Path) -> Trained | None:
        """Return the network in the file `path`; None if there is none."""
        if not path.exists():
            return None
        with reading(lambda why: DataError(f"{path} is damaged ({why}); delete it to compute it again.")):
            kept = read_state(path)
            weights = [kept[f"weight_{place}"] for place in range(len(kept) - 1)]
            validation, test = map(float, kept["accuracies"])
        return Trained(kind, cut, validation, test, weights)

    def _trained(self, kind: str, cut: str | None, number: int, base: Any, label: str, path: Path | None) -> Trained:
        """Return a new network, trained, and keep it in the file `path`."""
        model = self.settings.fresh(self.source, self.data, number=number)
        if cut is not None:
            model = transfer_weights(base, model, first=cut).model
            model = model if kind.endswith("+") else frozen(model, until=cut, batchnorm="train")
        backup = Backup(path.with_suffix("") if path else None, progress=self._progress)
        run = Trained(kind, cut, *self._fitted(model, number, label, backup))
        if path is not None:
            self._keep(run, path)
        return run

    def _keep(self, run: Trained, path: Path) -> None:
        arrays: dict[str, Any] = {f"weight_{place}": weight for place, weight in enumerate(run.weights)}
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, accuracies=np.array([run.validation, run.test]), **arrays)
        except (OSError, OutputError) as error:  # a full disk, say: the network is worth more
            self._progress.say(f"note: the study does not keep a network ({error}); it goes on")
            return
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def _fitted(self, model: Any, number: int, label: str, backup: Backup) -> tuple[float, float, list[np.ndarray]]:
        """Return validation and test accuracy of `model` after training, and its weights."""
        settings, data, package = self.settings, self.data, keras_compat.tf_keras()
        package.utils.set_random_seed((settings.seed + number) % SEEDS)
        flat_model = bridge.to_tf_keras(model)
        steps = settings.epochs * data.steps(settings.batch_size)
        rate = package.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
        loss = task_of(data).loss(logits=False)
        seed, position = settings.seed + number, backup.position
        batches = data.batches(
            "train", settings.batch_size, shuffle=True, seed=seed, augment=self.augment, position=position
        )
        optimizer = build_optimizer(package.optimizers.Adam(rate, jit_compile=False), flat_model)
        metric = build_metric("accuracy", batches.element_spec[1].shape, flat_model.output_shape)
        flat_model.compile(optimizer, loss, metrics=[metric])
        lines = [self.progress.callback(label)] if self.progress is not None else []
        with stopped_at_end(lines):
            backup.fit(flat_model, batches, epochs=settings.epochs, callbacks=lines, label=label, verbose=0)
        predict = functools.partial(flat_model.predict, verbose=0)
        found = [accuracy(outputs_for(predict, part), part.y()) for part in (data.validation, data.test)]
        return found[0], found[1], flat_model.get_weights()


def _as_json(runs: Sequence[Trained]) -> bytes:
    rows = [{"kind": r.kind, "cut": r.cut, "validation": r.validation, "test": r.test} for r in runs]
    return json_text(rows).encode()


def _plotted(runs: Sequence[Trained]) -> bytes:
    """Return the curves of figure 2 of the paper as a PNG: test accuracy against the cut."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    cuts = [str(run.cut) for run in runs if run.kind == KINDS[0]]
    for kind, style in zip(KINDS, ("r--o", "r-o", "b--s", "b-s"), strict=True):
        axes.plot(cuts, [100 * run.test for run in runs if run.kind == kind], style, label=kind)
    axes.axhline(100 * runs[0].test, color="k", linewidth=1, label="B, from scratch")
    axes.set_xlabel("cut after")
    axes.set_ylabel("% correct on the test set")
    axes.tick_params(axis="x", rotation=30)
    axes.grid(alpha=0.3)
    axes.legend()
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=120)
    return found.getvalue()
