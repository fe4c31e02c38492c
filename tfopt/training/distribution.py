"""One training spread over the devices of a machine, or over several machines, by tf.distribute.

Only the training is spread. All else, from reading data to the file, each worker computes by itself and alike: the
model that is trained is a twin of the one that the run holds, and hands its weights over at the end.
"""

import contextlib
import functools
import hashlib
import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tfopt.base import interruption
from tfopt.base.limits import MIB
from tfopt.base.progress import Progress
from tfopt.data.position import Position, Share
from tfopt.errors import RecipeError, TfoptError
from tfopt.training.cluster import Cluster, cluster_from
from tfopt.training.rendezvous import meet

Distribute = Literal["mirrored", "multiworker"]
KINDS = ("mirrored", "multiworker")
CHUNK = 4 * MIB
"""Bytes of a checkpoint that are sent at once."""
_LOST = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")
# In an InternalError, which may be about this machine alone, such as its GPU.
_BETWEEN_WORKERS = re.compile("collective|coordination service|another worker|other worker|heartbeat", re.IGNORECASE)


@dataclass(frozen=True)
class Distribution:
    """Where a training runs; without a strategy, as usual.

    Attributes:
        strategy: of tf.distribute.
        cluster: the workers, one process each.
    """

    strategy: Any = None
    cluster: Cluster = field(default_factory=lambda: Cluster(1, 0))

    @property
    def workers(self) -> int:
        """The number of processes."""
        return self.cluster.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files."""
        return self.cluster.worker == 0

    @property
    def replicas(self) -> int:
        """The number of replicas that share a batch."""
        return 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)

    def describe(self) -> str:
        """Return over what the training is spread, in words."""
        if self.strategy is None:
            return "no"
        where = f"{self.workers} workers" if self.workers > 1 else "one machine"
        return f"{self.replicas} replicas on {where}"

    def scope(self) -> Any:
        """Return the block in which variables are made for all replicas."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def position(self) -> Position:
        """Return a new position for batches of which each replica gets its part."""
        own = self.replicas // self.workers
        return Position(Share(self.cluster.worker * own, own, self.replicas))

    def spread(self, batches: Any) -> Any:
        """Return `batches`, made with a `position`, as a strategy takes them: without an end."""
        if self.strategy is None:
            return batches
        return self.strategy.distribute_datasets_from_function(lambda context: batches.repeat())

    def twin(self, learner: Any, again: Callable[[], Any]) -> Any:
        """Return what is trained in place of `learner`: itself, or one like it for all replicas, made by `again`."""
        if self.strategy is None:
            return learner
        with self.scope():
            twin = again()
            _copy(learner, twin)
        return twin

    def hand_over(self, twin: Any, learner: Any) -> None:
        """Copy the weights of a trained `twin` to `learner`."""
        if twin is not learner:
            with self.scope():
                _copy(twin, learner)

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that all workers pass at the same time."""
        return number if self.workers == 1 else int(max(self._from_all(np.array([number]))))

    def require_alike(self, what: str, *parts: bytes) -> None:
        """Wait for the other workers, and raise `TfoptError` unless they pass the same `parts`."""
        if self.workers == 1:
            return
        digest = np.frombuffer(hashlib.sha256(b"\0".join(parts)).digest()[:4], np.int32)
        if len(set(self._from_all(digest).tolist())) > 1:
            raise TfoptError(
                f"The workers differ in {what}. Give all of them the same command, model, data, teacher, versions and "
                "number of threads, on machines of one kind."
            )

    def copy_from_chief(self, folder: Path) -> None:
        """Let the `folder` of this worker hold what that of the chief does."""
        if self.workers == 1:
            return
        with tempfile.TemporaryFile() as packed:
            if self.is_chief:
                _zip(folder, packed)
            self._copy_file(packed)
            if not self.is_chief and packed.tell():
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(folder)

    def _copy_file(self, file: BinaryIO) -> None:
        """Write what is in `file` of the chief, from its start, to the empty one of this worker."""
        size = self._size_of_chief(file.tell())
        file.seek(0)
        for start in range(0, size, CHUNK):
            length = min(CHUNK, size - start)
            mine = file.read(length) if self.is_chief else b""
            sent = np.frombuffer(mine.ljust(-(-length // 4) * 4, b"\0"), np.int32)  # four bytes in each number
            received = self._sum(sent).tobytes()[:length]
            if not self.is_chief:
                file.write(received)

    def _size_of_chief(self, size: int) -> int:
        """Return `size` of the chief, which may be too large for one number."""
        high, low = (self.largest(part * self.is_chief) for part in divmod(size, 2**31))
        return high * 2**31 + low

    def _from_all(self, values: np.ndarray) -> np.ndarray:
        """Return the value that each worker passes at the same time, (workers,)."""
        mine = np.zeros(self.workers, np.int32)
        mine[self.cluster.worker] = values[0]
        return self._sum(mine)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the arrays, int32, that all workers pass at the same time."""
        return np.asarray(_sum_over(self.strategy, self.replicas // self.workers)(values))

    def notes(self, batch_size: int) -> list[str]:
        """Return what a report says about it."""
        if self.strategy is None:
            return []
        return [
            f"trained by {self.describe()}: batch_size={batch_size} is that of all together, "
            f"{batch_size / self.replicas:g} for each, so the learning rate stays as it is",
            "BatchNormalization takes the statistics of each replica's part of a batch, its moving averages those of "
            "all; ranges of activations follow the mean of the replicas' extremes",
        ]

    def require(self, batch_size: int, samples: Sequence[int], settings: Sequence[tuple[str, bool]]) -> None:
        """Raise `RecipeError` for what cannot be spread.

        Args:
            batch_size: of all replicas together.
            samples: of the parts of the data that are spread.
            settings: what is not possible, in words, and whether it is asked for.
        """
        if self.strategy is None:
            return
        if found := [what for what, asked in settings if asked]:
            raise RecipeError(f"{' and '.join(found)} cannot be distributed. Leave it out, or leave out distribute.")
        least = min(batch_size, *samples)
        few = [count for count in samples if 0 < count % batch_size < self.replicas and batch_size < 2 * self.replicas]
        if least < self.replicas or few:
            raise RecipeError(
                f"Expected at least one sample for each of {self.replicas} replicas in every batch; batch_size is "
                f"{batch_size}, and there are {' and '.join(f'{count:,}' for count in samples)} samples. Give a "
                f"batch_size of {2 * self.replicas} or more, or fewer devices."
            )


@functools.cache
def _sum_over(strategy: Any, own: int) -> Any:
    """Return the function from an array, int32, of each worker, which has `own` replicas, to their sum."""
    import tensorflow as tf

    def of_first(values: Any) -> Any:
        """Return the values in one replica of the worker, and zeros in the others."""
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.where(tf.equal(tf.math.mod(number, own), 0), values, tf.zeros_like(values))

    def total(values: Any) -> Any:
        given = strategy.run(of_first, args=(values,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, given, axis=None)

    return tf.function(total, input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)


def _copy(source: Any, target: Any) -> None:
    """Copy what training changes in a model or learner, except the optimizer."""
    pairs = zip(_variables(source), _variables(target), strict=True)
    for one, other in pairs:
        other.assign(one.numpy())


def _variables(learner: Any) -> list[Any]:
    return [*learner.variables, *getattr(learner, "own_variables", [])]


def _zip(folder: Path, packed: BinaryIO) -> None:
    """Write the files below `folder` as a zip to `packed`; nothing if there are none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        return
    with zipfile.ZipFile(packed, "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    packed.seek(0, io.SEEK_END)


@contextmanager
def distributed(distribute: str | None) -> Iterator[Distribution]:
    """Yield the distribution called `distribute`; None for none. At the end, wait for the other workers.

    Begin several workers before TensorFlow has done anything else in this process.

    Raises:
        RecipeError: there is none of that name, or not enough devices.
        TfoptError: TF_CONFIG does not describe the workers, or another worker was lost.
    """
    require_known(distribute)
    if distribute is None:
        yield Distribution()
    elif distribute == "mirrored":
        yield Distribution(_mirrored())
    else:
        import tensorflow as tf

        with _losing_workers():
            distribution = _multiworker(cluster_from())
            yield distribution
            # A worker that is lost now takes nothing from the chief, which has written the result.
            lost = (tf.errors.OpError,) if distribution.is_chief else ()
            with contextlib.suppress(*lost):
                distribution.largest(0)


def require_known(distribute: str | None) -> None:
    """Raise `RecipeError` unless `distribute` is None or names a way to distribute a run."""
    if distribute is not None and distribute not in KINDS:
        raise RecipeError(f"Expected distribute to be {' or '.join(map(repr, KINDS))}, got {distribute!r}.")


@functools.cache  # a second strategy in one process would number its collectives like the first one
def _mirrored() -> Any:
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        raise RecipeError(
            f'distribute="mirrored" needs two devices or more; TensorFlow sees one, {devices[0].name}. Leave '
            'distribute out, or choose "multiworker" for several machines.'
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multiworker(cluster: Cluster) -> Distribution:
    import tensorflow as tf

    meet(cluster, Progress().say)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise TfoptError(
            f'distribute="multiworker" must begin before TensorFlow does anything else ({error}). Pass paths of the '
            "model and the data instead of objects, or use `tfopt run --distribute multiworker`."
        ) from error
    interruption.take_back_signals()  # TensorFlow catches SIGTERM from then on, and does nothing about it
    return Distribution(strategy, cluster)


@contextmanager
def _losing_workers() -> Iterator[None]:
    """Turn the errors of TensorFlow when a worker is gone into one that says so."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        said = str(error.message or error)
        if type(error).__name__ not in _LOST and not (
            isinstance(error, tf.errors.InternalError) and _BETWEEN_WORKERS.search(said)
        ):
            raise
        first = next(iter(said.strip().splitlines()), type(error).__name__).rstrip(".")
        raise TfoptError(
            "Another worker was lost, or ended with an error: see what it says. Run the same command again on all "
            f"machines; the run goes on from its last checkpoint. TensorFlow says: {first}."
        ) from error


@contextmanager
def own_folder(distribute: str | None, folder: Path | None) -> Iterator[Path | None]:
    """Yield the folder to which this process writes: `folder`, or a temporary one for all workers but the chief."""
    require_known(distribute)
    if folder is None or distribute != "multiworker" or cluster_from().worker == 0:
        yield folder
        return
    temporary = Path(tempfile.mkdtemp(prefix="tfopt-"))
    try:
        yield temporary / folder.name
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
