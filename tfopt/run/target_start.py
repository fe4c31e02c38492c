"""Values far from 0: outputs that have not learned them begin at their mean and deviation."""

from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.data import Dataset
from tfopt.data.predicting import outputs_for
from tfopt.data.samples import FEW_GUIDES, Split
from tfopt.graph.value_heads import value_heads
from tfopt.graph.walk import walk
from tfopt.run.guard import predictor
from tfopt.surgery.output_scale import head_predicts_values
from tfopt.tasks import task_of
from tfopt.tasks.scaling import TargetScale

FAR = 4.0
"""Times the variance of the targets: a larger error is that of a model that knows nothing about them."""


def begin_at_targets(flat_model: Any, data: Dataset) -> tuple[Any, list[str]]:
    """Return a model of values that knows nothing about them with other last layers, and a note on each.

    Their biases would otherwise need hundreds of steps to the mean of targets such as prices. Outputs that know their
    targets, and those without values, stay as they are.

    Args:
        flat_model: of tf_keras; not changed.
        data: the training part shows the targets and what the model answers now.
    """
    task, guides = task_of(data), task_of(data).by_output(data.train.guides())
    scales = {name: TargetScale.of(guides[name]) for name, one in task.by_task().items() if one.smaller_is_better}
    if data.labels == "none" or not scales:
        return flat_model, []
    some = data.train.some(FEW_GUIDES)
    before = _errors(flat_model, some, data, scales)
    if not (far := [name for name, error in before.items() if error > FAR]):
        return flat_model, []
    changed, begun = bridge.clone(flat_model), list[str]()
    heads = value_heads(walk(changed))
    by_name = task.by_output(heads) if data.outputs else {"": heads[0]}
    for name in far:
        head = by_name[name]
        kept = head.layer.get_weights() if head else []
        if not head_predicts_values(head, scales[name]):
            continue
        if _errors(changed, some, data, scales)[name] < before[name]:
            begun.append(name)
        elif head:
            head.layer.set_weights(kept)
    notes = [
        f"the model knows nothing about the targets{f' of {name}' if name else ''} (its squared error is "
        f"{before[name]:.3g} times their variance): its last layer begins with their mean and deviation"
        for name in begun
    ]
    return (changed, notes) if begun else (flat_model, [])


def _errors(model: Any, samples: Split, data: Dataset, scales: dict[str, TargetScale]) -> dict[str, float]:
    """Return the squared error of each output with values as a share of the variance of its targets."""
    task = task_of(data)
    targets, found = task.by_output(samples.y()), task.by_output(outputs_for(predictor(model), samples))
    errors = {}
    for name, scale in scales.items():
        wanted = scale.normalized(targets[name])
        made = scale.normalized(np.asarray(found[name]).reshape(wanted.shape))
        errors[name] = float(np.square(made - wanted).mean())
    return errors
