"""Numbers and names in sentences."""

_SHORT = {"mae": "MAE", "mse": "MSE", "rmse": "RMSE", "auc": "AUC", "iou": "IoU"}


def counted(number: int, noun: str) -> str:
    """Return `number` with a noun, in the plural unless it is 1: "1 sample", "1,200 samples"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shortened(count: int | None) -> str:
    """Return a large number in three digits, as "12.5M"; "-" for None."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count is not None and count >= size:
            return f"{count / size:.3g}{unit}"
    return "-" if count is None else str(count)


def metric_in_words(name: str) -> str:
    """Return the name of a metric or a loss in words: "mean_iou" as "mean IoU", "age_rmse" as "age RMSE"."""
    return " ".join(_SHORT.get(word, word) for word in name.split("_"))
