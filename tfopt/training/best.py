"""Keep the epoch of a training that validates best."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras


@dataclass(frozen=True)
class Score:
    """The quality of a model on validation data.

    Attributes:
        rank: the metric, or the mean of several, negated if it is an error.
        negative_loss: decides between metrics that are as good as equal.
        noise: a standard error of the metric.
    """

    rank: float
    negative_loss: float
    noise: float = 0.0

    @classmethod
    def of(
        cls,
        logs: Mapping[str, Any],
        metric: str,
        *,
        smaller_is_better: bool,
        samples: int,
        beside: Mapping[str, float] | None = None,
        prefix: str = "",
    ) -> "Score":
        """Return the score in the `logs` of Keras on validation data. NaN is worse than any number.

        Args:
            logs: with a value by name.
            metric: the name of the metric.
            smaller_is_better: whether it is an error.
            samples: their number.
            beside: other shares, whose mean with the metric counts, and the number of samples that each is worth.
            prefix: of the names in `logs`.
        """
        worth = {metric: float(samples), **(beside or {})}
        values, loss = [float(logs[prefix + name]) for name in worth], float(logs[f"{prefix}loss"])
        value = sum(values) / len(values)
        rank, noise = -value if smaller_is_better else value, 0.0
        if not smaller_is_better and not math.isnan(value):
            # As if all were off by one standard error in the same direction.
            errors = map(_standard_error, values, worth.values())
            noise = sum(errors) / len(values)
        rank, negative_loss = (-math.inf if math.isnan(part) else part for part in (rank, -loss))
        return cls(rank, negative_loss, noise)

    def better_than(self, other: "Score", top: "Score | None" = None) -> bool:
        """Return whether this is as good as the best metric, and `other` is not or has a higher loss.

        An accuracy on few samples says less than their loss.

        Args:
            other: to compare with.
            top: the one with the best metric of all so far; None for the better one of the two.
        """
        top = top or max(self, other, key=lambda score: score.rank)
        good, other_good = (score.as_good_as(top) for score in (self, other))
        return good and (not other_good or self.negative_loss > other.negative_loss)

    def as_good_as(self, top: "Score") -> bool:
        """Return whether the metric is lower than that of `top` by one of its standard errors at most.

        Of 20 samples one more is right by chance. The rule is from Breiman et al. 1984, Classification and Regression
        Trees, section 3.4.3.
        """
        return self.rank >= top.rank - top.noise

    @property
    def metric(self) -> float:
        """The metric, an error or not, without its sign."""
        return abs(self.rank)


def _standard_error(share: float, samples: float) -> float:
    return math.sqrt(max(share * (1 - share), 0.0) / samples)


def keep_best(
    model: Any,
    metric: str,
    read: Callable[..., Score],
    *,
    first_epoch: int,
    start: Score | None = None,
    patience: int | None = None,
) -> Any:
    """Return a tf_keras callback that finds the best epoch, and restores its weights on request.

    Of all that are as good as the one with the best metric it is the last: schedules let the weights settle in the end,
    and the epoch that happens to have the best of many metrics on few samples is rarely the best one. The lowest loss
    would choose too early, since it rises with the confidence of a model that still learns; but the start is kept if no
    epoch has a better metric, or one as good and a lower loss.

    Args:
        model: the model whose weights are kept, perhaps inside the one that is fitted.
        metric: its name for notes.
        read: `Score.of` for this metric and the validation data, of logs and `prefix`.
        first_epoch: the first epoch, from 1, whose weights may be kept; before it a stage's promise does not hold yet.
        start: the score of the untrained model, if its weights may be kept.
        patience: stop after this many epochs, counted from `first_epoch`, without one that has a better metric, or one
            as good and a lower loss; None never stops.
    """
    return _callback_class()(model, metric, read, first_epoch, start, patience)


@functools.cache
def _callback_class() -> Any:
    class KeepBest(tf_keras().callbacks.Callback):  # type: ignore[misc]
        """Attributes: `best` and `epoch`, from 1, of the best epoch; 0 for the start, None as long as there is none."""

        _supports_tf_logs = True  # see `EpochLines`

        def __init__(
            self,
            kept: Any,
            metric: str,
            read: Callable[..., Score],
            first_epoch: int,
            start: Score | None,
            patience: int | None,
        ) -> None:
            super().__init__()
            self._kept, self._metric, self._read = kept, metric, read
            self._first_epoch, self._patience = first_epoch, patience
            self.best: Score | None = start
            self._top = start  # the score with the best metric
            self._lowest, self._lowest_epoch = start, 0  # as good as that, with the lowest loss
            self.epoch: int | None = None if start is None else 0
            self.last = 0
            self._weights = None if start is None else kept.get_weights()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.last = epoch + 1
            if self.last < self._first_epoch:
                return
            score = self._read(logs, prefix="val_")
            if self._top is None or score.rank > self._top.rank:
                self._top = score
            if self._lowest is None or score.better_than(self._lowest, self._top):
                self._lowest, self._lowest_epoch = score, self.last
            elif self._patience and self.last - max(self._lowest_epoch, self._first_epoch) >= self._patience:
                self.model.stop_training = True
            if self._lowest_epoch and score.as_good_as(self._top):
                self.best, self.epoch, self._weights = score, self.last, self._kept.get_weights()

        def get_state(self) -> dict[str, np.ndarray]:
            kept = -1 if self.epoch is None else self.epoch
            state = {"epochs": np.array([self.last, kept, self._lowest_epoch])}
            for name, score in (("best", self.best), ("top", self._top), ("lowest", self._lowest)):
                if score is not None:
                    state[name] = np.array([score.rank, score.negative_loss, score.noise])
            return state | {f"weight_{number}": weight for number, weight in enumerate(self._weights or ())}

        def set_state(self, state: Mapping[str, np.ndarray]) -> None:
            self.last, epoch, self._lowest_epoch = map(int, state["epochs"])
            self.epoch = None if epoch < 0 else epoch
            self.best, self._top, self._lowest = (
                Score(*map(float, state[name])) if name in state else None for name in ("best", "top", "lowest")
            )
            self._weights = [state[f"weight_{number}"] for number in range(len(state)) if f"weight_{number}" in state]

        def restore(self) -> str:
            """Give the model the weights of the best epoch. Return a note, empty if there was no choice."""
            if self.best is None or (self.last == self.epoch == self._first_epoch):
                return ""
            if self.epoch != self.last:
                self._kept.set_weights(self._weights)
            found = f"{self._metric} {self.best.metric:.4f} on validation"
            if not self.epoch:
                return f"kept the weights from before the training: no epoch was better than {found}"
            return f"kept epoch {self.epoch} of {self.last}: {found}"

    return KeepBest
