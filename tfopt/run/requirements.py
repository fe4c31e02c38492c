"""What a run requires of its recipe, model, data and machine, beyond what each of them checks for itself."""

from collections.abc import Callable, Sequence
from typing import Any

from tfopt import bridge
from tfopt.base.devices import device_name, has_precision
from tfopt.data import Dataset, has_one_input_and_output
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher
from tfopt.errors import RecipeError
from tfopt.run.guard import predictor
from tfopt.run.recipe import Recipe
from tfopt.stages import PruneChannels, Stage
from tfopt.stages.channels.criteria import OF_GRADIENTS
from tfopt.tasks import task_of
from tfopt.training.compiled_metrics import CompiledMetric, usable_metrics
from tfopt.training.outputs import own_metrics

CallbacksOf = Callable[[Stage], Sequence[Any]]
# Test samples on which metrics of the recipe are tried.
TRIED = 8


def require_precision(precision: str) -> None:
    """Raise RecipeError if TensorFlow does not compute in `precision` on this machine."""
    if not has_precision(precision):
        there = [f'"{other}"' for other in ("float32", "bfloat16", "float16") if has_precision(other)]
        raise RecipeError(
            f'Training(precision="{precision}") has no effect on {device_name()}: TensorFlow computes in float16 on '
            f"GPUs, and in bfloat16 on CPUs with AVX-512. Give {' or '.join(there)}."
        )


def require_metrics(recipe: Recipe, data: Dataset, flat_model: Any, logits: Any) -> None:
    """Compute the metrics of the recipe on a few samples, before training. Raise RecipeError for wrong ones."""
    if recipe.training.metrics:
        some = data.test.some(TRIED)
        outputs = predictor(flat_model)(some.x())
        known = data.labels != "none" and not some.reconstructs  # a few samples may all be anomalies
        taken = task_of(data).measured(outputs, some, logits=logits) if known else ()
        own_metrics(recipe.training, data, some, outputs, logits, taken=taken)


def metrics_of_model(
    model: Any, data: Dataset, flat_model: Any, logits: Any
) -> tuple[tuple[CompiledMetric, ...], list[str]]:
    """Return the metrics that `model` is compiled with and that reports can have, and notes on the others."""
    if data.labels == "none" or not bridge.is_compiled(model):
        return (), []
    some = data.test.some(TRIED)
    return usable_metrics(model, data, some, predictor(flat_model)(some.x()), logits)


def require_callbacks(callbacks: Sequence[Any]) -> CallbacksOf:
    """Return the function that returns these `callbacks` for every stage. Raise RecipeError for what is none."""
    for callback in callbacks:
        bridge.as_tf_keras_callback(callback)
    return lambda stage: callbacks


def not_distributed(recipe: Recipe) -> list[tuple[str, bool]]:
    """Return what cannot be distributed, in words, and whether `recipe` has it."""
    shrinking = [stage for stage in recipe.stages if isinstance(stage, PruneChannels) and stage.epochs]
    return [
        ("A MeanTeacher, which pairs samples within a batch,", isinstance(recipe.distillation, MeanTeacher)),
        (
            'PruneChannels(criterion="taylor" or "fisher"), which asks for gradients during the training,',
            any(stage.criterion in OF_GRADIENTS for stage in shrinking),
        ),
        ("Training(lower_batch_on_oom=True)", recipe.training.lower_batch_on_oom),
    ]


def require_for_several(recipe: Recipe, flat_model: Any) -> None:
    """Raise `RecipeError` for what needs one input and one output."""
    settings = {
        "a transfer": recipe.transfer is not None,
        "a MeanTeacher": isinstance(recipe.distillation, MeanTeacher),
        "Training(mixup=...)": bool(recipe.training.mixup),
        "Training(range_test=True)": recipe.training.range_test,
        "a stage that chooses bits": any(stage.budget is not None for stage in recipe.stages),
    }
    if found := [what for what, asked in settings.items() if asked]:
        raise RecipeError(
            f"Expected a model with one input and one output for {' and '.join(found)}; '{flat_model.name}' has "
            f"{len(flat_model.inputs)} and {len(flat_model.outputs)}. Leave it out."
        )


def require_one_answer(data: Dataset) -> None:
    """Raise RecipeError unless the labels have one answer for each sample, which a transfer needs."""
    if places := task_of(data).places:
        raise RecipeError(
            "A transfer makes models that give one answer for each sample; the labels have one for each of "
            f"{places} places. Leave the transfer out and pass a model that gives an answer for each place."
        )


def why_by_hand(model: Any) -> str:
    """Return why `optimize` does not train `model`, and what does; empty if it does."""
    if not has_one_input_and_output(model):
        return ""
    if not any(isinstance(shape, dict | list) for shape in (model.input_shape, model.output_shape)):
        return ""
    return (
        f"Optimize and `tfopt run` train models of tensors; '{model.name}' has its input or output in a dict or "
        "list. Take them out: keras.Model(model.inputs[0], model.outputs[0])."
    )
