"""The options of `tfopt run`, which recipe scripts share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tfopt.cli.command import DATA_SOURCES, PREPROCESSING, allow_drift_option, allow_unsafe_option, shared_options

speedup_option = click.option(
    "--speedup",
    type=click.FloatRange(min=1, min_open=True),
    help="Keep 1/SPEEDUP of the multiplications, in a recipe that prunes channels (faster, prune_channels); with --set "
    "stages.PruneChannels.measure=milliseconds, of the time that files take on this machine.",
)


def _integers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return the integers of `VALUE,VALUE,...`."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected integers with commas between them, such as 0,255, got {value!r}.") from None


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return the names of `NAME,NAME,...`."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a run to a command of click."""
    options = [
        click.option("--model", "--source", "model",
                     help="A Keras model file, a SavedModel or a TF-Hub handle (default: the recipe's, or a small CNN "
                          "trained on the digits). If the recipe transfers, it may be for another task."),
        click.option("--data", help=f"{DATA_SOURCES} (default: the recipe's, or scikit-learn's "
                                    "handwritten digits)."),
        click.option("--text", metavar="COLUMN", help="The column of texts in a table or records (default: text)."),
        click.option("--labels", metavar="COLUMN", help="The column of labels in a table or records (default: label)."),
        click.option("--task", metavar="TASK",
                     help="What the labels mean, where they leave it open: classification, multilabel, regression, "
                          "segmentation or forecasting; with reconstruction the inputs are the targets, and labels say "
                          "which samples are anomalies."),
        click.option("--input", "settings", metavar="SETTING=VALUE", multiple=True,
                     help="Change how texts, recordings or rows of a table become inputs of a new model, e.g. "
                          "ngrams=2, mels=40 or most_categories=20; see tfopt.inputs for all. Can be repeated."),
        click.option("--mask-values", metavar="VALUE,VALUE,...", callback=_integers,
                     help="The values of masks in a folder, by class, e.g. 0,255 (default: what a data.json beside the "
                          "model says, else all values in the masks)."),
        click.option("--window", type=click.IntRange(min=1), metavar="STEPS",
                     help="Take the table as a series, a row for each step, and cut windows of so many steps from it, "
                          "to forecast what follows."),
        click.option("--horizon", type=click.IntRange(min=1), metavar="STEPS",
                     help="Steps to forecast after each --window (default: 1)."),
        click.option("--targets", metavar="COLUMN,COLUMN,...", callback=_names,
                     help="Columns of the series to forecast (default: all)."),
        click.option("--out", type=click.Path(path_type=Path),
                     help="Folder for the results (default: saved_models/NAME)."),
        click.option("--overwrite", is_flag=True, help="Replace the contents of the --out folder."),
        click.option("--teacher", multiple=True,
                     help="A model to distill from in every stage: a Keras file, a SavedModel, a .tflite or a folder "
                          "that tfopt wrote. Several are averaged, or fused if they know different classes."),
        click.option("--teacher-classes", multiple=True, type=click.Path(path_type=Path),
                     help="A text file with the class names of a teacher, one per line; repeat it for each --teacher, "
                          "in the same order."),
        click.option("--teacher-preprocessing", type=click.Choice(PREPROCESSING),
                     help="Range of the pixels for the teachers (default: that of the model, or what a teacher's "
                          "folder says)."),
        click.option("--teacher-cache", type=click.Path(path_type=Path),
                     help="Folder to keep the teacher's answers in for later runs (default: in memory)."),
        click.option("--feature-cache", type=click.Path(path_type=Path),
                     help="Folder to keep the features of a transfer in for later runs (default: in memory)."),
        click.option("--checkpoint-every", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
                     metavar="MINUTES", help="Minutes between two checkpoints within an epoch. There is one after "
                                             "each epoch as well."),
        click.option("--distribute", type=click.Choice(["mirrored", "multiworker"]),
                     help="Spread the training over the GPUs of this machine (mirrored), or over several machines "
                          "(multiworker): run the same command on each, with TF_CONFIG in its environment."),
        click.option("--min-accuracy", type=click.FloatRange(0, 1),
                     help="Fail with exit code 1 if the file's accuracy on the test set is lower."),
        allow_drift_option,
        allow_unsafe_option,
        click.option("--set", "assignments", metavar="PLACE=VALUE", multiple=True,
                     help="Change a setting of the recipe, e.g. stages.0.final_sparsity=0.7, stages.Quantize.epochs=2 "
                          "or training.seed=1. Can be repeated."),
        click.option("--io", type=click.Choice(["float32", "int8", "uint8", "int16"]),
                     help="Type of the file's inputs and outputs (default: the recipe's)."),
        click.option("--batch-size", type=click.IntRange(min=1),
                     help="Samples per training step (default: the recipe's)."),
        speedup_option,
        click.option("--epochs-factor", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
                     help="Multiply the epochs and min_steps of every stage, and the epochs of the head of a transfer, "
                          "by this."),
        click.option("--seed", type=click.IntRange(min=0), help="Random seed (default: the recipe's)."),
        click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True,
                     help="Run with this many seeds, one folder each, and report mean and standard deviation."),
        click.option("--quiet", is_flag=True, help="Show only the report, no progress."),
        click.option("--json", "json_events", is_flag=True,
                     help="Print what happens as JSON lines on stdout, for programs; all else goes to stderr."),
        click.option("--track", metavar="NAME[=WHERE]", multiple=True,
                     help="Follow the run in tensorboard (WHERE: a folder, default logs), mlflow (a tracking URI) or "
                          "wandb (a project). Can be repeated."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return shared_options(command)
