"""The epochs of all stages as one table for other programs."""

import csv
import io
import itertools
from typing import Any

from tfopt.evaluate.page.single import trained_rows
from tfopt.evaluate.report import Report


def epochs_csv(report: Report) -> str:
    """Return a CSV with a row per stage and epoch and a column for each value that any of them logged; "" for none.

    The columns before them are "stage", its "number" among the rows that trained, the "epoch", from 1, and whether its
    weights were "kept".
    """
    rows = list(itertools.chain.from_iterable(_epochs(*each) for each in enumerate(trained_rows(report), 1)))
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _epochs(number: int, row: Any) -> list[dict[str, Any]]:
    values = row.history.values
    return [
        {
            "stage": row.step,
            "number": number,
            "epoch": epoch,
            "kept": int(epoch == row.history.kept),
            **{name: each[epoch - 1] for name, each in values.items() if epoch <= len(each)},
        }
        for epoch in range(1, max(map(len, values.values()), default=0) + 1)
    ]
