"""Findings about a finished file as plain data, stored in report.json."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LayerFinding:
    """One operator of the file.

    Attributes:
        layer: the Keras layers it comes from; "" if the converter's names do not show them.
        operator: of LiteRT.
        shape: of its result.
        parameters: numbers in its kernel and bias.
        bytes: of them, as stored.
        sparsity, unique: share of zeros and number of distinct values in its largest weight; None without one.
        weights: type of its largest weight, as stored; "" without one.
        computes: type of its result.
        sqnr: signal to quantization noise of its result, in decibels, against the same model in float; None if unknown.
    """

    layer: str
    operator: str
    shape: str
    parameters: int
    bytes: int
    sparsity: float | None
    unique: int | None
    weights: str
    computes: str
    sqnr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The weights of one layer before the first stage and in the finished file.

    Attributes:
        layer: its name.
        low, high: ends of the range that the bins divide equally.
        before: weights in each bin before the first stage; None if the layer was not there.
        after: the same in the file, in real values.
        unique: number of distinct values, before and after.
    """

    layer: str
    low: float
    high: float
    before: list[int] | None
    after: list[int]
    unique: tuple[int | None, int]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """How the file answers for each class.

    Attributes:
        names: by class number.
        unit: what is counted: "samples", or "places" such as the pixels of masks.
        support: labels of each class.
        predicted: answers of each class.
        right: of these, the ones that are right.
        wrong: (class of the label, predicted class, count), most frequent first; not all for many classes.
    """

    names: list[str]
    unit: Literal["samples", "places"]
    support: list[int]
    predicted: list[int]
    right: list[int]
    wrong: list[tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often the file is right when it says how sure it is.

    Attributes:
        error: expected calibration error, Guo et al. 2017 (arXiv:1706.04599), equation 3.
        count, confidence, accuracy: of the samples in each of the equal bins of confidence from 0 to 1; their mean
            confidence and the share that is right are None in an empty bin.
    """

    error: float
    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


@dataclass(frozen=True, kw_only=True)
class AnomalyScores:
    """The scores by which the file tells normal samples from anomalies: the larger, the less normal.

    Attributes:
        edges: of the bins, one more than bins.
        normal, anomalous: test samples in each bin.
        threshold: above which one of a hundred normal validation samples is.
        false_alarms, caught: shares of the normal test samples and of the anomalies above it; None for none.
    """

    edges: list[float]
    normal: list[int]
    anomalous: list[int]
    threshold: float
    false_alarms: float | None
    caught: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A test sample that the file gets wrong, or nearly.

    Attributes:
        number: its place in the test data.
        image: a data URI.
        label, predicted: in words.
        score: how good the answer is, in the unit of `Answers.scored`; None for NaN, which JSON lacks.
    """

    number: int
    image: str
    label: str
    predicted: str
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How one output of the file answers test samples. Parts that make no sense for its task are empty.

    Attributes:
        output: its name; "" if it is the only one.
        classes: for tasks with classes.
        calibration: for tasks with classes.
        anomalies: scores of normal samples and anomalies, for tasks that tell them apart.
        worst: images, the worst answer first.
        scored: what `Sample.score` is.
    """

    output: str
    classes: Classes | None = None
    calibration: Calibration | None = None
    anomalies: AnomalyScores | None = None
    worst: list[Sample] = field(default_factory=list)
    scored: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in the finished file and in its answers to test samples.

    Attributes:
        samples: number of test samples that were answered, spread over all of them.
        layers: the operators of the file, in order; not all of a very long file.
        histograms: of the largest layers.
        answers: of each output.
        fed: what the file is fed and answers, in words.
        versions: of the packages that made it, by name.
        notes: parts that could not be made, and why.
    """

    samples: int = 0
    layers: list[LayerFinding] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    fed: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
