"""The machines of a run, as TF_CONFIG describes them."""

import json
import os
from dataclasses import dataclass, field
from typing import Any

from tfopt.errors import TfoptError

VARIABLE = "TF_CONFIG"
_EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
_KINDS = ("chief", "worker")


@dataclass(frozen=True)
class Cluster:
    """The workers that train together.

    Attributes:
        workers: how many there are.
        worker: the number of this one; 0 is the chief.
        addresses: of all, as "host:port".
    """

    workers: int
    worker: int
    addresses: tuple[str, ...] = field(default=(), compare=False)


def cluster_from(text: str | None = None) -> Cluster:
    """Return the cluster that `text` describes, by default the environment variable TF_CONFIG.

    Raises:
        TfoptError: it is missing or malformed, or has one worker only.
    """
    text = os.environ.get(VARIABLE) if text is None else text
    if not text:
        raise _wrong("it is not set")
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], task["index"]
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(f"it is no JSON with cluster and task ({type(error).__name__}: {error})") from error
    if not isinstance(cluster, dict) or (unknown := sorted(set(cluster) - set(_KINDS))):
        raise _wrong(f"its cluster has {', '.join(unknown) if isinstance(cluster, dict) else type(cluster).__name__}")
    if kind not in cluster:
        raise _wrong(f"its task is {kind!r}, which its cluster does not have")
    listed = {(each, number): at for each in _KINDS for number, at in enumerate(_addresses(cluster.get(each, [])))}
    if (kind, index) not in listed:
        raise _wrong(f"its task has the index {index!r}, and its cluster {len(cluster[kind])} of {kind}")
    if len(listed) < 2:
        raise TfoptError(
            f'distribute="multiworker" needs two workers or more; {VARIABLE} names one. Leave distribute out, or '
            'choose "mirrored" for several GPUs of one machine.'
        )
    return Cluster(len(listed), list(listed).index((kind, index)), tuple(listed.values()))


def _addresses(given: Any) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(each, str) and ":" in each for each in given):
        raise _wrong(f"an address is missing or has no port: {given!r}")
    return given


def _wrong(what: str) -> TfoptError:
    return TfoptError(
        f'distribute="multiworker" needs the environment variable {VARIABLE} on each machine; {what}. Expected, e.g. '
        f"on the first of two: {_EXAMPLE}."
    )
