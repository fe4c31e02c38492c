"""Numbers, names and errors in sentences."""

import re

_SHORT = {"mae": "MAE", "mse": "MSE", "rmse": "RMSE", "auc": "AUC", "iou": "IoU", "dice": "Dice"}
_NAMES = re.compile(r"\{\{[^}]*\}\}\s*|\s*\[Op:\w+\](\s*name:\s*\S*)?")
"""Of operations and generated functions, as TensorFlow puts them into its messages."""
_WHERE = ("Exception encountered when calling", "Graph execution error")
"""How Keras and TensorFlow begin messages whose reason follows."""


def counted(number: int, noun: str) -> str:
    """Return `number` with a noun, in the plural unless it is 1: "1 sample", "1,200 samples"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shortened(count: int | None) -> str:
    """Return a large number in three digits, as "12.5M"; "-" for None."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count is not None and count >= size:
            return f"{count / size:.3g}{unit}"
    return "-" if count is None else str(count)


def in_decimals(value: float | None) -> str:
    """Return a metric with four decimals; "-" for None, which stands for NaN."""
    return "-" if value is None else f"{value:.4f}"


def metric_in_words(name: str) -> str:
    """Return the name of a metric or a loss in words: "mean_iou" as "mean IoU", "age_rmse" as "age RMSE"."""
    return " ".join(_SHORT.get(word, word) for word in name.split("_"))


def reason_of(error: BaseException) -> str:
    """Return the first line that gives a reason in an error of another library, without TensorFlow's own names."""
    lines = [_NAMES.sub("", line).strip() for line in str(error).splitlines()]
    found = [line for line in lines if line]
    return next((line for line in found if not line.startswith(_WHERE)), (found or [type(error).__name__])[0])
