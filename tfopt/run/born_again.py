"""Born-again networks: train generations of one architecture, each taught by the previous one.

Furlanello et al., ICML 2018, arXiv:1805.04770.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import keras_of, tf_keras
from tfopt.base.progress import Progress
from tfopt.bridge.state import finalize, moved_ids
from tfopt.data import fit_to_ports, load_data
from tfopt.data.dataset import Dataset
from tfopt.data.mixup import require_no_mixup
from tfopt.data.predicting import outputs_for
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.session import DistillationSession, adapted_teacher
from tfopt.errors import ModelError, RecipeError, TfoptError
from tfopt.graph.keras_internals import flat_layers, sublayers
from tfopt.run.checkpoint import Checkpoint
from tfopt.run.guard import predictor
from tfopt.run.identity import about_run
from tfopt.run.run_folder import RunFolder, in_use, open_run_folder
from tfopt.surgery.reinitialize import fresh as renewed
from tfopt.tasks import task_of
from tfopt.teachers.ensemble import as_teacher
from tfopt.training.augmentation import choose_augmentation
from tfopt.training.backup import EVERY, Backup, backing_up_every
from tfopt.training.class_weights import class_weighted, class_weights
from tfopt.training.fit import train
from tfopt.training.loss import choose_loss, gives_logits
from tfopt.training.settings import SEEDS, Training

# Separates the random numbers of initial weights from others with the same seed.
WEIGHTS = 3


@dataclass(frozen=True)
class BornAgain:
    """The result of `born_again`.

    Attributes:
        models: the given model, and each generation after it, all in its Keras.
        metrics: of each on the test set, by name.

    Examples:
        >>> born = tfopt.self_taught.born_again(model, data, generations=1, epochs=1, quiet=True)
        >>> isinstance(born, tfopt.self_taught.BornAgain), sorted(born.metrics[-1])
        (True, ['accuracy'])
    """

    models: tuple[Any, ...]
    metrics: tuple[dict[str, float], ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracies of `models` on the test set, for classification."""
        return tuple(metrics["accuracy"] for metrics in self.metrics)

    @property
    def ensemble(self) -> Any:
        """The generations without the given model, as an `Ensemble`, which is a teacher like any other.

        The paper's BANE averages the students' predictions (section 3.1).
        """
        return as_teacher(list(self.models[1:]))


def born_again(
    model: Any,
    data: Any,
    *,
    training: Training | None = None,
    generations: int = 3,
    epochs: int = 20,
    distillation: Distillation | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY / 60,
    quiet: bool = False,
) -> BornAgain:
    """Train `generations` of the architecture of `model` from fresh weights, each taught by the previous one.

    Furlanello et al. 2018, arXiv:1805.04770. The first learns from `model`, so that should be trained. A generation's
    initial weights, order of samples and augmentation depend only on `training.seed` and its number. Weights that
    training does not change (frozen layers, adapted Normalization) are those of `model` in all generations.

    Args:
        model: a Keras 3 or tf_keras model with one input and one output, rebuildable from its config. Not changed.
        data: a `Dataset`, or anything `load_data` accepts.
        training: `Training()` if None. Its augmentation is first tested on `model`, as in `optimize`.
        generations: number of generations, 1 or more.
        epochs: of each generation.
        distillation: `Distillation()` if None. The paper combines the loss on the labels with KL at T = 1:
            `Distillation(losses=(Hinton(temperature=1, weight=1),), alpha=1)`.
        checkpoint: a folder that keeps each generation, and each epoch within one. After an interruption, calling
            `born_again` again with the same arguments goes on from there; more generations may be asked for.
        checkpoint_every: minutes between two checkpoints within an epoch.
        quiet: no progress on stderr.

    Returns:
        The models and their metrics.

    Raises:
        ModelError: a model that cannot be rebuilt or bridged, or does not fit the data.
        RecipeError: settings out of range, or a loss that is not finite.
        DataError: the checkpoint is of a run with other arguments.

    Examples:
        >>> born = tfopt.self_taught.born_again(model, data, generations=2, epochs=1, quiet=True)
        >>> len(born.models)  # the given one and two generations
        3
    """
    if generations < 1 or epochs < 1:
        raise RecipeError(f"Expected at least 1 generation of at least 1 epoch, got {generations} of {epochs}.")
    training, distillation = training or Training(), distillation or Distillation()
    require_no_mixup(training.mixup)
    if unused := [name for name in _UNUSED if getattr(training, name)]:
        raise RecipeError(f"Generations are trained without {' and '.join(unused)}; leave it out of Training(...).")
    if not distillation.needs_teacher:
        raise RecipeError("None of the losses uses a teacher, so there is nothing to inherit; add one that does.")
    dataset = data if isinstance(data, Dataset) else load_data(data)
    with in_use(checkpoint), backing_up_every(60 * checkpoint_every):
        return _Line(model, dataset, training, epochs, distillation, checkpoint, Progress(quiet=quiet)).run(generations)


_UNUSED = ("range_test", "lower_batch_on_oom", "metrics")
"""Settings of training that belong to the stages of a recipe."""


class _Line:
    """The generations of one model trained so far."""

    def __init__(
        self,
        model: Any,
        data: Dataset,
        training: Training,
        epochs: int,
        distillation: Distillation,
        checkpoint: str | Path | None,
        progress: Progress,
    ) -> None:
        self.model, self.data, self.training, self.epochs = model, data, training, epochs
        self.distillation, self.progress = distillation, progress
        self.first = bridge.to_tf_keras(model)
        fit_to_ports(data, self.first)
        self.loss, self.logits = choose_loss(self.first, training, data), gives_logits(self.first, data)
        self.augmentation, notes = choose_augmentation(self._answers, training, data, who="the given model")
        for note in notes:
            progress.say(note)
        self._folder = self._opened(checkpoint) if checkpoint else None

    def _opened(self, checkpoint: str | Path) -> RunFolder:
        settings = {
            "training": dataclasses.asdict(self.training),
            "distillation": self.distillation.to_dict(),
            "epochs": self.epochs,
        }
        about = about_run(settings, data=self.data.fingerprint, model=self.first, loss=self.loss)
        return open_run_folder(checkpoint, about, progress=self.progress)

    def run(self, generations: int) -> BornAgain:
        flat_models = [self.first]
        metrics = [self._measured(self.first)]
        self._tell("the given model", metrics[0])
        for number in range(1, generations + 1):
            flat_model = self._kept(number)
            label = f"generation {number}/{generations}"
            if flat_model is None:
                flat_model = self._trained(number, flat_models[-1], label)
                self._keep(number, flat_model)
            else:
                label += " (trained before)"
            flat_models.append(flat_model)
            metrics.append(self._measured(flat_model))
            self._tell(label, metrics[-1])
        born = [bridge.to_keras(flat_model, like=self.model) for flat_model in flat_models[1:]]
        return BornAgain((self.model, *born), tuple(metrics))

    def _trained(self, number: int, teacher: Any, label: str) -> Any:
        training, seed = self.training, (self.training.seed + number) % SEEDS
        tf_keras().utils.set_random_seed(seed)
        flat_model = bridge.to_tf_keras(reinitialized(self.model, [self.training.seed, number]))
        adapted = adapted_teacher(teacher, self.distillation, self.data)
        session = DistillationSession(
            self.distillation, adapted, self.data, augment=self.augmentation, seed=seed, progress=self.progress
        )
        if self._folder:
            self._folder.begin()
        backup = Backup(self._states(number), progress=self.progress)
        batches = session.batches(training.batch_size, seed=seed, epochs=self.epochs, position=backup.position)
        train(
            session.student(flat_model),
            class_weighted(batches, class_weights(training, self.data)),
            self.data,
            loss=self.loss,
            training=training,
            epochs=self.epochs,
            progress=self.progress,
            label=label,
            logits=self.logits,
            backup=backup,
        )
        return flat_model

    def _answers(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.first.predict(x, verbose=0))

    def _measured(self, flat_model: Any) -> dict[str, float]:
        outputs = outputs_for(predictor(flat_model), self.data.test)
        return task_of(self.data).measured(outputs, self.data.test, logits=self.logits)

    def _tell(self, label: str, metrics: dict[str, float]) -> None:
        self.progress.say(f"{label}: {', '.join(f'{name} {value:.4f}' for name, value in metrics.items())} (test)")

    def _states(self, number: int) -> Path | None:
        """Return the folder for the training of a generation; None without a checkpoint."""
        return self._folder.path / f"generation_{number}" if self._folder else None

    def _file(self, folder: RunFolder, number: int) -> Checkpoint:
        return Checkpoint(folder.path / f"generation_{number}.npz", folder.key)

    def _kept(self, number: int) -> Any:
        """Return the flat model of a generation that an earlier run finished, or None."""
        found = self._file(self._folder, number).load() if self._folder else None
        if not found:
            return None
        flat_model = bridge.clone(self.first)
        flat_model.set_weights(found.weights)
        return flat_model

    def _keep(self, number: int, flat_model: Any) -> None:
        if not self._folder:
            return
        try:
            self._file(self._folder, number).save(flat_model, [])
        except (OSError, TfoptError) as error:  # a full disk, say: the generation is worth more
            self.progress.say(f"note: the checkpoint does not keep generation {number} ({error}); the run goes on")
        else:
            shutil.rmtree(self._folder.path / f"generation_{number}", ignore_errors=True)


def reinitialized(model: Any, seed: Sequence[int]) -> Any:
    """Return a model like `model`, in the same Keras, with new initial values for everything that training changes.

    Each initializer gets a separate seed drawn from `seed`, replacing a seed in the model's config: with that, all
    generations would start alike. BatchNorm's moving statistics are reset too; all other weights are copied.

    Raises:
        ModelError: a model that cannot be rebuilt from its config.
    """
    api = keras_of(model)
    custom = {type(layer).__name__: type(layer) for layer in sublayers(model, recursive=True)}
    try:
        config = renewed(model.get_config(), np.random.default_rng([*seed, WEIGHTS]))
        with api.utils.custom_object_scope(custom):
            fresh = type(model).from_config(config)
        fresh = fresh if fresh.built else api.models.clone_model(fresh)
    except Exception as error:
        raise ModelError(
            f"'{model.name}' cannot be rebuilt with fresh weights: {error}. Its layers must be rebuildable from "
            "get_config()."
        ) from error
    moved = moved_ids(model)
    for old, new in zip(model.weights, fresh.weights, strict=True):
        if id(old) not in moved:
            new.assign(np.asarray(old))
    finalize(fresh)
    for old, new in zip(flat_layers(model), flat_layers(fresh), strict=True):
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    return fresh
