"""Recordings in files: WAV, FLAC, OGG and what else libsndfile reads."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.limits import FASTEST_SOUND, LARGEST_SOUND, SLOWEST_SOUND
from tfopt.base.packages import importing
from tfopt.base.reading import reading
from tfopt.base.words import counted
from tfopt.errors import DataError

MOST_CLIPPED = 0.01
"""A recording of floats with a larger share of samples beyond -1..1 is scaled otherwise."""
_FLOATS = ("FLOAT", "DOUBLE")
_UNKNOWN_SIZE = 0x7FFF_F000  # and more: programs that write to a pipe state such sizes, since they know none


@dataclass(frozen=True)
class Header:
    """What the header of a recording says: samples per second, channels, samples per channel, if they are floats."""

    rate: int
    channels: int
    samples: int
    floats: bool = False


def headers(paths: Any) -> list[Header]:
    """Return the headers of recordings; raise `DataError` for a file that is none, is empty, or is too long."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_header, paths))


def read_recordings(paths: Any, rate: int, samples: int) -> np.ndarray:
    """Return recordings as int16 (n, samples) at `rate` samples per second: their middle, or zeros on both sides.

    Channels are averaged. Other rates are resampled by a polyphase filter (`scipy.signal.resample_poly`).

    Raises:
        DataError: a file cannot be read, or has numbers that are not finite, or too many beyond -1..1.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(partial(_read, rate=rate, samples=samples), paths)))


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Return samples in -1..1 as int16."""
    return np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)


def notes_on(found: list[Header], rate: int, samples: int) -> tuple[str, ...]:
    """Return notes on what reading changes: rates, channels and lengths."""
    number = len(found)
    notes = [
        f"{counted(count, 'recording')} of {number:,} resampled from {other:,} to {rate:,} Hz"
        for other, count in sorted(Counter(each.rate for each in found).items())
        if other != rate
    ]
    if mixed := sum(each.channels > 1 for each in found):
        notes.append(f"the channels of {counted(mixed, 'recording')} of {number:,} averaged")
    lengths = np.array([each.samples * rate / each.rate for each in found])
    if longer := int((np.ceil(lengths) > samples).sum()):
        notes.append(
            f"{counted(longer, 'recording')} of {number:,} longer than {samples / rate:.3g} s (the longest has "
            f"{lengths.max() / rate:.3g} s): the middle is taken"
        )
    return tuple(notes)


def _header(path: Path) -> Header:
    with importing("soundfile", f"the recording {path}"):
        import soundfile

    with reading(partial(_unreadable, path)):
        _check_whole(path)
        info = soundfile.info(str(path))
        header = Header(int(info.samplerate), int(info.channels), int(info.frames), info.subtype in _FLOATS)
    if not SLOWEST_SOUND <= header.rate <= FASTEST_SOUND:
        raise DataError(
            f"Expected recordings of {SLOWEST_SOUND:,} to {FASTEST_SOUND:,} Hz, got {header.rate:,} Hz in the header "
            f"of {path}; replace or remove it."
        )
    if header.samples < 1:
        raise DataError(f"Expected sound in {path}, got a recording without samples; remove it.")
    if header.samples * header.channels > LARGEST_SOUND:
        raise DataError(
            f"Expected recordings of at most {LARGEST_SOUND:,} samples, got {header.samples:,} in {header.channels} "
            f"channels in {path}; cut it."
        )
    return header


def _check_whole(path: Path | str) -> None:
    """Raise `DataError` if a WAV has less data than its header states: libsndfile reads what there is."""
    with Path(path).open("rb") as file:
        start, size = file.read(12), Path(path).stat().st_size
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return
        while len(head := file.read(8)) == 8:
            stated = int.from_bytes(head[4:], "little")
            if head[:4] != b"data":
                file.seek(stated + stated % 2, os.SEEK_CUR)
            elif (there := size - file.tell()) < stated < _UNKNOWN_SIZE:
                raise DataError(
                    f"Expected {stated:,} bytes of sound in {path}, as its header states, got {there:,}: it is "
                    "truncated; copy it again, or remove it."
                )
            else:
                return


def _read(path: Path, rate: int, samples: int) -> np.ndarray:
    header = _header(path)
    wave = _wave(path)
    if header.floats and (share := beyond(wave)) > MOST_CLIPPED:
        raise DataError(
            f"Expected samples in -1..1, but {share:.2%} of those in {path} are outside, up to "
            f"{np.abs(wave).max():.3g}; at most {MOST_CLIPPED:g} may be clipped; "
            "divide the recording by its largest value."
        )
    return to_int16(middle(_resampled(wave, header.rate, rate), samples))


def _wave(path: Path) -> np.ndarray:
    """Return the mean of the channels, float32 (samples,)."""
    import soundfile

    with reading(partial(_unreadable, path)):
        channels, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    wave: np.ndarray = channels.mean(axis=1)
    if not np.isfinite(wave).all():
        raise DataError(f"Expected finite samples, got NaN or infinity in {path}; replace or remove it.")
    return wave


def beyond(wave: np.ndarray) -> float:
    """Return the share of samples that are not in -1..1."""
    return float(np.mean(np.abs(wave) > 1))


def clipped_note(paths: Any, found: list[Header]) -> tuple[str, ...]:
    """Return a note if recordings of floats have samples beyond -1..1, which reading clips.

    Args:
        paths: of the files.
        found: their headers.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        floats = [path for path, header in zip(paths, found, strict=True) if header.floats]
        clipped = sum(share > 0 for share in pool.map(lambda path: beyond(_wave(path)), floats))
    if not clipped:
        return ()
    of_all = f"{counted(clipped, 'recording')} of {len(found):,}"
    return (f"samples of {of_all} are beyond -1..1 and clipped, at most {MOST_CLIPPED:.0%} of each",)


def _resampled(wave: np.ndarray, own: int, rate: int) -> np.ndarray:
    if own == rate:
        return wave
    from scipy.signal import resample_poly

    common = gcd(own, rate)
    return np.asarray(resample_poly(wave, rate // common, own // common))


def middle(wave: np.ndarray, samples: int) -> np.ndarray:
    """Return the middle of a recording, or all of it with zeros on both sides, (samples,)."""
    before = (samples - len(wave)) // 2
    if before >= 0:
        return np.pad(wave, (before, samples - len(wave) - before))
    return wave[-before : samples - before]


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(f"Expected a readable recording, got {path}: {why}; replace or remove it.")
