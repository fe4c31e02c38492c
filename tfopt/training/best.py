"""Keep the epoch of a training that validates best."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfopt.base.keras_compat import tf_keras


@dataclass(frozen=True, order=True)
class Score:
    """The quality of a model on validation data; a better one is larger.

    Attributes:
        rank: the metric, negated if it is an error.
        negative_loss: decides between equal metrics.
    """

    rank: float
    negative_loss: float

    @classmethod
    def of(cls, logs: Mapping[str, Any], metric: str, *, smaller_is_better: bool, prefix: str = "") -> "Score":
        """Return the score in the `logs` of Keras. NaN is worse than any number."""
        value, loss = (float(logs[prefix + name]) for name in (metric, "loss"))
        rank = -value if smaller_is_better else value
        return cls(*(-math.inf if math.isnan(part) else part for part in (rank, -loss)))

    @property
    def metric(self) -> float:
        """The metric, an error or not, without its sign."""
        return abs(self.rank)


def keep_best(
    model: Any,
    metric: str,
    *,
    smaller_is_better: bool,
    first_epoch: int,
    start: Score | None = None,
    patience: int | None = None,
) -> Any:
    """Return a tf_keras callback that finds the best epoch, and restores its weights on request.

    Args:
        model: the model whose weights are kept, perhaps inside the one that is fitted.
        metric: as Keras logs it.
        smaller_is_better: whether `metric` is an error.
        first_epoch: the first epoch, from 1, whose weights may be kept; before it a stage's promise does not hold yet.
        start: the score of the untrained model, if its weights may be kept.
        patience: stop after this many epochs without a better one, counted from `first_epoch`; None never stops.
    """
    return _callback_class()(model, metric, smaller_is_better, first_epoch, start, patience)


@functools.cache
def _callback_class() -> Any:
    class KeepBest(tf_keras().callbacks.Callback):  # type: ignore[misc]
        """Attributes: `best` and `epoch`, from 1, of the best epoch; 0 for the start, None as long as there is none."""

        _supports_tf_logs = True  # see `EpochLines`

        def __init__(
            self,
            kept: Any,
            metric: str,
            smaller_is_better: bool,
            first_epoch: int,
            start: Score | None,
            patience: int | None,
        ) -> None:
            super().__init__()
            self._kept, self._metric, self._smaller_is_better = kept, metric, smaller_is_better
            self._first_epoch, self._patience = first_epoch, patience
            self.best: Score | None = start
            self.epoch: int | None = None if start is None else 0
            self.last = 0
            self._weights = None if start is None else kept.get_weights()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.last = epoch + 1
            if self.last < self._first_epoch:
                return
            score = Score.of(logs, self._metric, smaller_is_better=self._smaller_is_better, prefix="val_")
            if self.best is None or score > self.best:
                self.best, self.epoch, self._weights = score, self.last, self._kept.get_weights()
            elif self._patience and self.last - max(self.epoch or 0, self._first_epoch) >= self._patience:
                self.model.stop_training = True

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
