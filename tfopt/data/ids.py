"""Numbers that a model looks up in tables, such as those of words: each must have a row."""

from typing import Any

import numpy as np

from tfopt.data.arrays_by_name import leaves, names_of
from tfopt.data.dataset import Dataset
from tfopt.data.samples import Split
from tfopt.data.split import NAMES
from tfopt.data.text import Text
from tfopt.errors import DataError, ModelError
from tfopt.graph.indices import index_inputs
from tfopt.graph.walk import is_model, walk

AT_ONCE = 4096
"""Samples that are looked at together."""


def check_ids(dataset: Dataset, model: Any) -> None:
    """Raise `DataError` for a number in `dataset` that has no row in the table of a layer of `model`.

    Args:
        dataset: the data, with the names of the model's inputs if there are several.
        model: of either Keras. A file, and a model without a graph of layers, is left alone.
    """
    if not is_model(model):
        return
    try:
        graph = walk(model)
    except ModelError:
        return
    found = index_inputs(graph)
    for number, spec in enumerate(graph.inputs):
        if (indices := found.get(spec.ref)) and indices.layer:
            layer, rows = indices.layer
            check_input_ids(dataset, number, f"layer '{layer}'", rows)


def check_input_ids(dataset: Dataset, number: int, what: str, rows: int) -> None:
    """Raise `DataError` for a number in an input of `dataset` that is not from 0 to `rows` - 1.

    Args:
        dataset: the data.
        number: of the input.
        what: looks the input up, a layer or an operator.
        rows: of its table.
    """
    given = names_of(dataset.train.inputs, "input")[number]
    for name in NAMES:
        wrong = _first_outside(dataset.split(name), number, rows)
        if wrong is None:
            continue
        if isinstance(text := dataset.preprocessing, Text):
            raise DataError(
                f"The vocabulary has {len(text.vocabulary):,} entries, the {what} looks them up in a table of "
                f"{rows:,} rows. Give it Embedding({len(text.vocabulary)}, ...), or load the data with the vocabulary "
                "that it was trained with: preprocessing=tfopt.inputs.Text(vocabulary=...), or its data.json and "
                "vocabulary.txt beside the model."
            )
        raise DataError(
            f"The {what} looks numbers up in a table of {rows:,} rows, 0 to {rows - 1:,}; the {given} of "
            f"sample {wrong[0]:,} in {name} holds {wrong[1]:g}. Give it a table with more rows, or correct the data."
        )


def _first_outside(split: Split, number: int, rows: int) -> tuple[int, float] | None:
    """Return the first sample with a number that is not from 0 to `rows` - 1, and that number; None if all are."""
    for start in range(0, len(split), AT_ONCE):
        values = np.asarray(leaves(split.x(slice(start, start + AT_ONCE)))[number])
        flat = values.reshape(len(values), -1)
        if len(found := np.argwhere((flat < 0) | (flat >= rows))):
            sample, place = found[0]
            return start + int(sample), float(flat[sample, place])
    return None
