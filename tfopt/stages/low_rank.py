"""LowRank: kernels as products of two smaller ones, where that saves multiplications or bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt
from typing_extensions import override

from tfopt.base.annotations import annotate, annotations
from tfopt.base.config import config
from tfopt.bridge.edited import FACTOR
from tfopt.errors import RecipeError
from tfopt.graph.types import Ref
from tfopt.graph.walk import walk
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.rules import choose
from tfopt.stages.stage import Stage
from tfopt.surgery.factors import Matrix, factored, matrix_of


@config
class LowRank(Stage):
    """Replace kernels by two factors from a singular value decomposition; then train both.

    A kernel (m, n) of rank r costs r (m + n) instead of m n (Denil et al. 2013, arXiv:1306.0543; Sainath et al. 2013).
    Dense layers, Embeddings, convolutions, of whose window the first factor computes r channels (Jaderberg et al. 2014,
    arXiv:1405.3866), and the input kernels of LSTM, GRU and SimpleRNN can be factored. Layers where it does not pay
    stay whole; it is an error if it pays nowhere.

    A rule in `layers` sets False, to keep a kernel whole, or its rank.

    Attributes:
        energy: share of the squared kernel that the factors keep, which gives each rank.
        rank: the same rank for all kernels instead.
        round_to: ranks are multiples of it, since kernels compute channels in blocks.
        saving: the share of a kernel's numbers that the factors must save, or it stays whole.

    Examples:
        >>> wide = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
        >>> stage = tfopt.LowRank(rank=8)
        >>> thin = stage.strip(stage.apply(wide, steps=0))
        >>> thin.count_params() < wide.count_params() / 2
        True
    """

    min_steps: NonNegativeInt = 300
    energy: float = Field(default=0.95, gt=0, le=1)
    rank: PositiveInt | None = None
    round_to: PositiveInt = 8
    saving: float = Field(default=0.2, ge=0, lt=1)

    resizes: ClassVar[bool] = True
    restructures: ClassVar[bool] = True

    @override
    def holds_after(self, steps: int) -> int:
        return 0

    @property
    @override
    def _with_lower_target(self) -> "Stage | None":
        if self.rank:
            return replace(self, rank=2 * self.rank, retry="never")
        return replace(self, energy=(1 + self.energy) / 2, retry="never")

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps, keep
        trials = self._trials(flat_model)
        ranks = {trial.name: trial.rank for trial in trials if trial.pays}
        if not ranks:
            said = "; ".join(trial.said for trial in trials) or "no layer has a kernel that can be factored"
            raise RecipeError(
                f"LowRank does not pay for '{flat_model.name}': {said}. Lower energy or rank, or leave the stage out."
            )
        result = factored(flat_model, ranks)
        annotate(result, summary=tuple(f"{trial.name}: {trial.does}" for trial in trials if trial.pays))
        return result

    @override
    def summary(self, model: Any) -> list[str]:
        return list(annotations(model).summary)

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        del keep
        return [f"stays whole: {trial.said}" for trial in self._trials(model) if not trial.pays]

    def _trials(self, flat_model: Any) -> list["_Trial"]:
        """Return what each kernel that can be factored would become."""
        layers = [layer for layer in flat_model.layers if layer.weights]
        settings = choose(self.layers, layers, {layer.name: True for layer in layers})
        calls = walk(flat_model, keep_names=True).calls
        names = [call.leaf.name for call in calls]
        alone = {call.leaf.name for call in calls if names.count(call.leaf.name) == 1 and isinstance(call.args[0], Ref)}
        found = []
        for layer in layers:
            setting = settings[layer.name]
            if type(setting) is not bool and (type(setting) is not int or setting < 1):
                raise RecipeError(f"The rule for {layer.name} sets {setting!r}; expected False, or a rank, 1 or more.")
            whole = setting is False or layer.name not in alone or _is_factored(layer.name, names)
            matrix = None if whole else matrix_of(layer)
            if matrix is not None:
                found.append(self._trial(layer.name, matrix, self.rank if setting is True else setting))
            elif type(setting) is int:
                raise RecipeError(f"The rule for {layer.name} gives a rank, but the layer has no kernel to factor.")
            if type(setting) is int and not found[-1].pays:
                raise RecipeError(f"The rank that a rule gives does not pay: {found[-1].said}.")
        return found

    def _trial(self, name: str, matrix: Matrix, stated: int | None) -> "_Trial":
        rank = stated or -(-matrix.rank_for(self.energy) // self.round_to) * self.round_to
        return _Trial(name, matrix, min(rank, *matrix.values.shape), self.saving)

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        del keep
        why = "no kernel that can be factored, factored already, or kept by a rule"
        found = {layer.name: Decision(layer.name, why=why) for layer in model.layers if layer.weights}
        for trial in self._trials(model):
            pays = trial.pays
            found[trial.name] = Decision(trial.name, trial.does if pays else "", "" if pays else trial.said)
        return found


def _is_factored(name: str, names: Sequence[str]) -> bool:
    """Return whether a layer is one of two factors."""
    return name + FACTOR in names or (name.endswith(FACTOR) and name.removesuffix(FACTOR) in names)


@dataclass(frozen=True, eq=False)
class _Trial:
    """One kernel and the rank that it would have."""

    name: str
    matrix: Matrix
    rank: int
    saving: float

    @property
    def share(self) -> float:
        """The numbers of both factors relative to those of the kernel."""
        rows, columns = self.matrix.values.shape
        return float(self.rank * (rows + columns) / (rows * columns))

    @property
    def pays(self) -> bool:
        """Whether the factors save enough."""
        return self.share <= 1 - self.saving

    @property
    def does(self) -> str:
        """What happens, with numbers."""
        shape = " x ".join(map(str, self.matrix.values.shape))
        energy = self.matrix.energy_of(self.rank)
        return f"{shape} -> rank {self.rank}, {self.share:.0%} of the numbers, {energy:.1%} of the energy"

    @property
    def said(self) -> str:
        """Why it does not pay, with numbers."""
        whole = f"at {1 - self.saving:.0%} of the numbers"
        rank = max(1, int(self.matrix.break_even * (1 - self.saving)))
        return f"{self.name} ({self.does}; {whole} it keeps {self.matrix.energy_of(rank):.1%})"
