"""Rank sources for a transfer by how well their features predict the labels, without training."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfopt.base.notebook import table_html
from tfopt.base.progress import Progress
from tfopt.base.renamed import renamed_arguments
from tfopt.base.terminal import rendered
from tfopt.data.for_model import data_for
from tfopt.errors import DataError
from tfopt.models.sources import model_from
from tfopt.tasks import task_of
from tfopt.transfer.features import feature_extractor, features_of
from tfopt.transfer.preprocessing import choose_preprocessing
from tfopt.transfer.scores import h_score, logme


@dataclass(frozen=True)
class Score:
    """Transferability scores of one source; see `tfopt.transfer.scores`.

    Attributes:
        source: its name.
        preprocessing: of its inputs, in words.
        features: values per sample.
        parameters: of the extractor.
        logme: You et al. 2021, arXiv:2102.11005; higher is better.
        h_score: Bao et al. 2019, with the shrinkage of Ibrahim et al. 2021; higher is better; for classification only.
    """

    source: str
    preprocessing: str
    features: int
    parameters: int
    logme: float
    h_score: float | None


@dataclass(frozen=True)
class Ranking:
    """Sources sorted by LogME, the best first.

    Examples:
        >>> ranking = tfopt.transfer.rank_sources([model, teacher], data, quiet=True)
        >>> isinstance(ranking, tfopt.transfer.Ranking), sorted(score.features for score in ranking.scores)
        (True, [8, 16])
        >>> ranking.scores[0].logme >= ranking.scores[1].logme
        True
    """

    scores: tuple[Score, ...]

    def table(self) -> Any:
        """Return the ranking as a `rich.table.Table`."""
        from rich.table import Table

        table = Table(title="sources by LogME of their features", title_justify="left")
        for name in ("source", "LogME", "H-score", "features", "parameters", "fed"):
            table.add_column(name, overflow="fold", justify="left" if name in ("source", "fed") else "right")
        for row in self.scores:
            h = "-" if row.h_score is None else f"{row.h_score:.3f}"
            table.add_row(
                row.source, f"{row.logme:.3f}", h, f"{row.features:,}", f"{row.parameters:,}", row.preprocessing
            )
        return table

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return table_html(self.table())

    def __str__(self) -> str:
        return rendered(self.table(), 120).rstrip()


@renamed_arguments(preprocess="preprocessing")
def rank_sources(
    sources: Iterable[Any],
    data: Any,
    *,
    preprocessing: str | None = None,
    limit: int | None = None,
    cache: str | Path | None = None,
    quiet: bool = False,
    allow_unsafe: bool = False,
) -> Ranking:
    """Score each of `sources` by its features of the training samples of `data`: one pass, no training.

    Args:
        sources: models, files, SavedModels or TF-Hub handles; anything `feature_extractor` accepts.
        data: a `Dataset`, or anything `load_data` accepts; images are resized for each source.
        preprocessing: for all sources, "raw", "unit" or "symmetric"; None chooses for each by LogME.
        limit: maximum number of training samples.
        cache: a folder that keeps the features.
        quiet: no progress on stderr.
        allow_unsafe: let model files run Python code. Only for files that you trust.

    Returns:
        The `Ranking`.

    Raises:
        DataError: no sources, or labels that are neither classes nor values.
        ModelError: a source that cannot be read.

    Examples:
        >>> ranking = tfopt.transfer.rank_sources([model, teacher], data, quiet=True)
        >>> print(ranking)
        sources by LogME of their features
        ...
    """
    sources, progress = list(sources), Progress(quiet=quiet)
    if not sources:
        raise DataError("Expected at least one source to rank, got none.")
    scores = [
        _score(
            number, source, data, preprocessing, limit, None if cache is None else Path(cache), progress, allow_unsafe
        )
        for number, source in enumerate(sources)
    ]
    return Ranking(tuple(sorted(scores, key=lambda score: -score.logme)))


def _score(
    number: int,
    source: Any,
    data: Any,
    preprocessing: str | None,
    limit: int | None,
    cache: Path | None,
    progress: Progress,
    allow_unsafe: bool,
) -> Score:
    model = model_from(source, allow_unsafe=allow_unsafe)
    name = model.name if source is model else Path(str(source)).name
    dataset = data_for(model, data, preprocessing=preprocessing, limit=limit)
    if preprocessing is None:
        dataset, said = choose_preprocessing(model, dataset, None)
        for line in said:
            progress.say(f"{name}: {line}")
    extractor = feature_extractor(model)
    folder = None if cache is None else cache / f"{number}-{name}"
    parts, _ = features_of(
        extractor, dataset, ("train",), cache=folder, progress=progress, quiet=progress.console.quiet
    )
    x, y = parts["train"].inputs, parts["train"].labels
    task = task_of(dataset)
    y = task.groups(y) if task.has_classes else y
    return Score(
        source=name,
        preprocessing=dataset.preprocessing.describe(),
        features=x.shape[1],
        parameters=extractor.count_params(),
        logme=logme(x, y),
        h_score=h_score(x, y) if task.has_classes else None,
    )
