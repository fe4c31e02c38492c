"""Recall and precision of each class, and the most frequent errors."""

from collections import Counter
from dataclasses import dataclass

from tfopt.evaluate.findings.types import Classes


@dataclass(frozen=True)
class ClassRow:
    """A class with labels; shares are in [0, 1], and `precision` is None if the file never answers it."""

    name: str
    recall: float
    precision: float | None
    support: int


@dataclass(frozen=True)
class Confusion:
    """How often the file answers one class for another, also as a share of the label's class."""

    label: str
    answer: str
    count: int
    share: float


def class_rows(found: Classes) -> list[ClassRow]:
    """Return the classes that have labels, in their order."""
    return [
        ClassRow(
            name=name,
            recall=found.right[number] / found.support[number],
            precision=found.right[number] / found.predicted[number] if found.predicted[number] else None,
            support=found.support[number],
        )
        for number, name in enumerate(distinct_names(found.names))
        if found.support[number]
    ]


def confusions(found: Classes, most: int) -> list[Confusion]:
    """Return the most frequent errors, the most frequent first."""
    names = distinct_names(found.names)
    return [
        Confusion(names[label], names[answer], count, count / found.support[label])
        for label, answer, count in found.wrong[:most]
    ]


def most_confused(found: Classes, most: int) -> list[int]:
    """Return the numbers of the `most` classes with most errors, in their order; of those without, the first."""
    wrong: Counter[int] = Counter()
    for label, answer, count in found.wrong:
        wrong.update({label: count, answer: count})
    numbers = [number for number, _ in wrong.most_common(most)]
    right = [number for number in range(len(found.names)) if number not in wrong]
    return sorted([*numbers, *right[: most - len(numbers)]])


def distinct_names(names: list[str]) -> list[str]:
    """Return the names of classes, with their numbers where several have the same name."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]
