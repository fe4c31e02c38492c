"""Prune: set the least important weights to zero and train the others (Zhu & Gupta 2017, arXiv:1710.01878)."""

import warnings
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import override

from tfopt.base.config import config
from tfopt.base.keras_compat import tfmot
from tfopt.errors import ModelError, RecipeError
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.choice import SPARED, Choice, Decision, choose_kernels, decisions_on_kernels, notes_on
from tfopt.stages.kernels.promise import MByN, Promise, Sparsity
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import Kernel, require_kernels
from tfopt.stages.prune.distribution import erdos_renyi_kernel
from tfopt.stages.prune.wrapper import Settings, hold_zeros, masked_weights, pruned_layers, wrap_for_pruning, zeros_held
from tfopt.stages.stage import Stage

DEFAULT_SPARSITY = 0.5
# The sparsity of a second try with a lower target, relative to that of the first.
LOWER = 0.75
# A polynomial ramp ends after this share of the steps; in the rest, the remaining weights recover at full sparsity.
RAMP = 0.7
# Maximum number of mask updates during the ramp.
MASK_UPDATES = 100


@config
class Prune(Stage):
    """Magnitude, random or threshold pruning with TF-MOT's wrapper and schedules.

    Attributes:
        final_sparsity: fraction of zeros in each kernel at the end, 0 <= s < 1. Defaults to 0.5 unless another setting
            decides the sparsity. A rule `(pattern, number)` in `layers` replaces it for the layers it matches.
        distribution: "uniform" gives every kernel `final_sparsity`; "erk" distributes it so that all kernels together
            have it, with the highest sparsity for large kernels (see `tfopt.stages.prune.distribution`).
        initial_sparsity: fraction of zeros at `begin_step` of the polynomial schedule.
        schedule: "polynomial" (from initial to final sparsity), "constant" (full sparsity from `begin_step` on; the
            mask is still updated) or "one-shot" (one mask before the first step).
        power: exponent of the polynomial, 3 in the paper.
        begin_step: the first training step of the schedule.
        end_step: the last training step of the schedule. By default the schedule fits the steps passed to `apply`, ends
            on a mask update, and leaves the last 30 % for recovery.
        frequency: training steps between mask updates.
        block_size: (height, width) of the blocks that are pruned together, for Dense kernels.
        block_pooling_type: how a block's importance is pooled, "AVG" or "MAX".
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights, e.g. (2, 4). One-shot.
        importance: "magnitude", "random" (a baseline) or "threshold" (prune all weights below `threshold`; one-shot).
        threshold: absolute value below which a weight is pruned, in units of the weight.
        policy: "xnnpack" prunes only what XNNPACK's sparse inference accelerates (1x1 convolutions between a 3x3
            stride-2 stem and a global pooling with keepdims); any other layout is an error.
        seed: of the random importance. None: the seed of the recipe's training, or 0 if applied by hand.

    Examples:
        In a recipe, with rules for some layers:

        >>> stage = tfopt.Prune(final_sparsity=0.8, epochs=6, layers=(("head", False), ("Conv2D", 0.5)))

        In your own `fit`:

        >>> stage = tfopt.Prune(final_sparsity=0.5)
        >>> prunable = stage.apply(model, steps=7 * 4)  # 7 batches in each of 4 epochs
        >>> history = prunable.fit(x, y, epochs=4, verbose=0)
        >>> sparse = stage.strip(prunable)
        >>> float(np.mean(sparse.get_layer("second").kernel.numpy() == 0))
        0.5
    """

    min_steps: NonNegativeInt = 300
    final_sparsity: float | None = Field(default=None, ge=0, lt=1)
    distribution: Literal["uniform", "erk"] = "uniform"
    initial_sparsity: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["polynomial", "constant", "one-shot"] = "polynomial"
    power: PositiveFloat = 3.0
    begin_step: NonNegativeInt = 0
    end_step: PositiveInt | None = None
    frequency: PositiveInt | None = None
    block_size: tuple[PositiveInt, PositiveInt] = (1, 1)
    block_pooling_type: Literal["AVG", "MAX"] = "AVG"
    sparsity_m_by_n: tuple[PositiveInt, PositiveInt] | None = None
    importance: Literal["magnitude", "random", "threshold"] = "magnitude"
    threshold: PositiveFloat | None = None
    policy: Literal["xnnpack"] | None = None
    seed: int | None = None

    establishes: ClassVar[str | None] = "sparsity"
    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.importance == "threshold") != (self.threshold is not None):
            raise RecipeError('importance="threshold" and threshold=... belong together; set both or neither.')
        if self.final_sparsity is not None and (self.threshold is not None or self.sparsity_m_by_n):
            raise RecipeError(
                "final_sparsity contradicts threshold and sparsity_m_by_n, which decide the sparsity themselves; "
                "remove it."
            )
        if self.distribution != "uniform" and (self.threshold is not None or self.sparsity_m_by_n):
            raise RecipeError(
                f'distribution="{self.distribution}" cannot be combined with threshold or sparsity_m_by_n, which '
                "decide the sparsity themselves; remove one of them."
            )
        if self.sparsity_m_by_n and not self.sparsity_m_by_n[0] < self.sparsity_m_by_n[1]:
            raise RecipeError(f"sparsity_m_by_n=(m, n) needs m < n, e.g. (2, 4); got {self.sparsity_m_by_n}.")
        if self.sparsity_m_by_n and self.importance != "magnitude":
            raise RecipeError(f'sparsity_m_by_n requires importance="magnitude"; got "{self.importance}".')
        if self.sparsity_m_by_n and self.block_size != (1, 1):
            raise RecipeError("sparsity_m_by_n and block_size cannot be combined; remove one of them.")
        numbers = any(not isinstance(setting, bool) for _, setting in self.layers)
        if numbers and (self.sparsity_m_by_n or self.threshold is not None):
            raise RecipeError(
                "With threshold or sparsity_m_by_n, which decide the sparsity, rules must set True or False; "
                f"got {self.layers}."
            )
        if self._one_shot and (self.begin_step or self.end_step or self.frequency or self.initial_sparsity):
            raise RecipeError(
                "One mask before the first step (one-shot, threshold, sparsity_m_by_n) has no schedule: remove "
                "initial_sparsity, begin_step, end_step and frequency."
            )
        if self.initial_sparsity > self._target:
            raise RecipeError(
                f"initial_sparsity must not exceed final_sparsity ({self._target}); got {self.initial_sparsity}."
            )

    @property
    def _target(self) -> float:
        if self.sparsity_m_by_n:
            return self.sparsity_m_by_n[0] / self.sparsity_m_by_n[1]
        return DEFAULT_SPARSITY if self.final_sparsity is None else self.final_sparsity

    @property
    def _one_shot(self) -> bool:
        return self.schedule == "one-shot" or self.importance == "threshold" or self.sparsity_m_by_n is not None

    @property
    @override
    def _with_lower_target(self) -> "Prune | None":
        if self.threshold is not None or self.sparsity_m_by_n:
            return None
        rules = tuple((name, LOWER * rule if isinstance(rule, float) else rule) for name, rule in self.layers)
        initial, final = LOWER * self.initial_sparsity, LOWER * self._target
        return replace(self, initial_sparsity=initial, final_sparsity=final, layers=rules, retry="never")

    @override
    def holds_after(self, steps: int) -> int:
        if self._one_shot:
            return 0
        end, frequency = self._ramp(steps)
        # TF-MOT counts steps from 1. A constant sparsity holds from the first update of the mask on.
        return (self.begin_step or frequency) if self.schedule == "constant" else end

    @override
    def callbacks(self) -> list[Any]:
        return [tfmot().sparsity.keras.UpdatePruningStep()]

    @override
    def promises(self, model: Any) -> list[Promise]:
        choices, targets = self._choices(model)
        if self.threshold is not None:
            return []  # the number of zeros depends on the weights
        if self.sparsity_m_by_n:
            m, n = self.sparsity_m_by_n
            return [MByN(layer=layer, weight=weight, m=m, n=n) for layer, weight in targets]
        return [
            Sparsity(layer=key[0], weight=key[1], at_least=self._share(choices[key].kernel.shape, target))
            for key, target in targets.items()
        ]

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        del keep
        choices, targets = self._choices(model)
        does = {key: self._described(choices[key].kernel.shape, target) for key, target in targets.items()}
        why = {key: choice.why or "erk leaves it dense" for key, choice in choices.items()}
        return decisions_on_kernels(model, does, why)

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        return notes_on(model, "pruned", self.decisions(model, keep))

    def _described(self, shape: tuple[int, ...], target: float) -> str:
        if self.threshold is not None:
            return f"zeros below {self.threshold:g}"
        if self.sparsity_m_by_n:
            return "{} zeros in {} weights".format(*self.sparsity_m_by_n)
        return f"{self._share(shape, target):.0%} zeros".replace("%", " %")

    def _choices(self, model: Any) -> tuple[dict[Key, Choice], dict[Key, float]]:
        """Return the choice for each kernel, and the target sparsity of the pruned ones."""
        require_kernels(model, "prune")
        allowed = self._xnnpack(model) if self.policy == "xnnpack" else None
        choices = choose_kernels(self.layers, model, lambda layer, kernel: self._against(layer, kernel, allowed))
        shapes = {key: choice.kernel.shape for key, choice in choices.items() if choice.setting is True}
        shared = self._shared_out(shapes)
        targets: dict[Key, float] = {}
        for key, choice in choices.items():
            if choice.setting is False:
                continue
            target = targets[key] = shared[key] if choice.setting is True else float(choice.setting)
            self._require_possible(choice, target)
        targets = {key: target for key, target in targets.items() if target > 0}
        if not targets:
            raise RecipeError("Prune would leave every layer unchanged: its rules exclude all of them.")
        return choices, targets

    def _require_possible(self, choice: Choice, target: float) -> None:
        name, kernel = choice.layer.name, choice.kernel
        if not 0 <= target < 1:
            raise RecipeError(f"Layer '{name}': expected a sparsity 0 <= s < 1; the rule sets {target}.")
        if not self._pattern_fits(kernel):
            raise RecipeError(
                f"Layer '{name}' ({type(choice.layer).__name__}, {kernel.name} {kernel.shape}) cannot be pruned with "
                f"{self._pattern}. Remove it from the rules."
            )

    def _shared_out(self, shapes: dict[Key, tuple[int, ...]]) -> dict[Key, float]:
        if self.distribution == "erk" and shapes:
            return erdos_renyi_kernel(shapes, self._target)
        return dict.fromkeys(shapes, self._target)

    def _against(self, layer: Any, kernel: Kernel, allowed: frozenset[str] | None) -> str:
        """Return why a kernel that no rule matches is not pruned; "" if it is."""
        if allowed is not None:
            return "" if layer.name in allowed else "XNNPACK would not be faster"
        if kernel.spared:
            return SPARED
        return "" if self._pattern_fits(kernel) else f"{self._pattern} does not fit it"

    @property
    def _pattern(self) -> str:
        return "sparsity_m_by_n" if self.sparsity_m_by_n else "block_size"

    def _pattern_fits(self, kernel: Kernel) -> bool:
        if self.sparsity_m_by_n:
            return facts_of(kernel.owner).m_by_n
        return self.block_size == (1, 1) or len(kernel.shape) == 2

    def _xnnpack(self, model: Any) -> frozenset[str]:
        """Return the names of the layers that XNNPACK computes faster when they are sparse."""
        policy = tfmot().sparsity.keras.PruneForLatencyOnXNNPack()
        try:
            policy.ensure_model_supports_pruning(model)
        except ValueError as error:
            raise ModelError(
                f'policy="xnnpack" cannot speed up this model: {error}. Remove the policy to prune for size.'
            ) from error
        return frozenset(layer.name for layer in model.layers if policy.allow_pruning(layer))

    def _share(self, shape: tuple[int, ...], target: float) -> float:
        """Return the guaranteed fraction of zeros when the fraction `target` of the blocks (or weights) is pruned.

        Edge blocks are smaller if the kernel's size is not a multiple of the block's. In the worst case, those are the
        ones that are pruned.
        """
        if self.block_size == (1, 1):
            return target
        height, width = shape
        rows, columns = (-(-height // self.block_size[0]), -(-width // self.block_size[1]))
        sizes = sorted(
            min(self.block_size[0], height - row * self.block_size[0])
            * min(self.block_size[1], width - column * self.block_size[1])
            for row in range(rows)
            for column in range(columns)
        )
        # The schedule stores the target as float32.
        fallen = len(sizes) - max(round(len(sizes) * (1 - float(np.float32(target)))), 1)
        return sum(sizes[:fallen]) / (height * width)

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        _, targets = self._choices(flat_model)
        if steps == 0 and not self._one_shot:
            raise RecipeError(
                f'schedule="{self.schedule}" needs training steps to reach its target and got none. '
                'Set epochs, or use schedule="one-shot".'
            )
        wrapped = wrap_for_pruning(flat_model, self._settings(flat_model, targets, steps, zeros_too="sparsity" in keep))
        if "sparsity" in keep:
            hold_zeros(wrapped, scheduled=not self._one_shot)
        if self._one_shot:
            for layer in pruned_layers(wrapped):
                self._prune_now(layer)
        return wrapped

    def _settings(self, model: Any, targets: dict[Key, float], steps: int, *, zeros_too: bool) -> Settings:
        """Return the pruning wrapper's arguments by layer name; with `zeros_too`, also for kernels that have zeros."""
        settings = zeros_held(model) if zeros_too else {}
        position = {layer.name: index for index, layer in enumerate(model.layers)}
        for (layer, weight), target in targets.items():
            schedules = settings.get(layer, {}).get("schedules", {})
            settings[layer] = {
                "schedules": {**schedules, weight: self._schedule(target, steps)},
                "block_size": self.block_size,
                "block_pooling_type": self.block_pooling_type,
                "sparsity_m_by_n": self.sparsity_m_by_n,
                "importance": self.importance,
                "threshold": self.threshold,
                "seed": self.seed or 0,
                "position": position[layer] << 16,
            }
        return settings

    def _schedule(self, target: float, steps: int) -> Any:
        sparsity = tfmot().sparsity.keras
        if self._one_shot:
            return sparsity.ConstantSparsity(target, begin_step=1, end_step=1, frequency=1)
        end, frequency = self._ramp(steps)
        if end > steps or end <= self.begin_step or (end - self.begin_step) % frequency:
            raise RecipeError(
                f"The pruning schedule would never reach {target}: begin_step {self.begin_step}, end_step {end}, "
                f"frequency {frequency}, but training runs {steps} steps. end_step must lie after begin_step, "
                "within the steps, and a multiple of frequency after begin_step. Omit them to have them computed."
            )
        if self.schedule == "constant":
            return sparsity.ConstantSparsity(target, begin_step=self.begin_step, end_step=end, frequency=frequency)
        return sparsity.PolynomialDecay(
            initial_sparsity=min(self.initial_sparsity, target),
            final_sparsity=target,
            begin_step=self.begin_step,
            end_step=end,
            power=self.power,
            frequency=frequency,
        )

    def _ramp(self, steps: int) -> tuple[int, int]:
        """Return the last step of the schedule, and the steps between mask updates."""
        end = self.end_step or max(self.begin_step + 1, round(RAMP * steps))
        frequency = self.frequency or max(1, (end - self.begin_step) // MASK_UPDATES)
        if not self.end_step:  # end on a mask update: otherwise TF-MOT would stop short of the target
            end = self.begin_step + (end - self.begin_step) // frequency * frequency
        return end, frequency

    def _prune_now(self, layer: Any) -> None:
        layer.pruning_step.assign(1)
        layer.pruning_obj.conditional_mask_update()
        layer.pruning_obj.weight_mask_op()
        if self.threshold is None:
            return
        for (name, schedule), (_, mask, _) in zip(layer.schedules.items(), layer.pruning_vars, strict=True):
            zeros = int(np.sum(mask.numpy() == 0))
            if schedule is not None and zeros in (0, mask.shape.num_elements()):
                raise RecipeError(
                    f"Threshold {self.threshold} prunes {'nothing' if zeros == 0 else 'all'} of layer "
                    f"'{layer.layer.name}', {name}. Choose another threshold, or exclude the layer with a rule."
                )

    def _trained_weights(self, layer: Any, flat_layer: Any) -> list[np.ndarray]:
        del flat_layer
        return masked_weights(layer)

    @override
    def untrained_result(self, model: Any) -> Any:
        # A schedule makes zeros during training; here all come at once.
        if self._one_shot:
            return super().untrained_result(model)
        at_once = replace(self, schedule="one-shot", initial_sparsity=0.0, begin_step=0, end_step=None, frequency=None)
        with warnings.catch_warnings():  # there may be no zeros to keep yet
            warnings.simplefilter("ignore")
            applied = at_once.apply(self._origin(model), steps=1, keep={"sparsity"})
        return super().untrained_result(applied)

    def _advice(self) -> str:
        return (
            "Run fit for the steps that were passed to apply(), with the stage's callbacks: "
            "fit(..., callbacks=[*stage.callbacks()])."
        )
