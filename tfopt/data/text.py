"""Texts as token ids: what keras.layers.TextVectorization does with its defaults, without TensorFlow."""

from __future__ import annotations

import hashlib
import itertools
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import override

from tfopt.base.words import counted
from tfopt.data.front_end import FrontEnd, ReadFile, checked_keys
from tfopt.errors import DataError

VOCABULARY_FILE = "vocabulary.txt"
PADDING, UNKNOWN = "", "[UNK]"
"""The entries 0 and 1 of every vocabulary."""
_PUNCTUATION = string.punctuation.encode()
_HELD_WHOLE = 0.99  # of the training texts, by the length that is chosen
_LONGEST = 512
_MANY_UNKNOWN = 0.5  # a larger share of unknown tokens is worth a note


@dataclass(frozen=True, kw_only=True)
class Text(FrontEnd):
    """Texts as token ids, int32 (n, length), computed as `keras.layers.TextVectorization` does with its defaults.

    ASCII letters become lowercase, ASCII punctuation is deleted, and whitespace separates tokens. Id 0 pads a text
    that is shorter than `length`, id 1 stands for tokens that the vocabulary lacks; the rest of a longer text is cut.

    Args:
        length: tokens of one input; None takes the shortest length, up to 512, that holds 99 % of the training texts.
        vocabulary_size: the most entries, with those for padding and unknown tokens; the most frequent tokens of the
            training texts get one, of equally frequent ones the last in alphabetical order.
        ngrams: also make tokens of 2 up to this many neighbors, after all single tokens.
        column: of the texts, in a table.
        labels: the column of the labels, in a table.
        classes: the labels in a table by class number; () takes those in the table; None: its labels are values.
        vocabulary: the entries, if they are known: `PADDING` and `UNKNOWN` first.

    Raises:
        DataError: a field is out of range.

    Examples:
        >>> text = tfopt.inputs.Text(vocabulary=("", "[UNK]", "good", "film"), length=4)
        >>> text.tokens("A good film!")
        ['a', 'good', 'film']
        >>> text.stored(np.array(["A good film!"], object)).tolist()
        [[1, 2, 3, 0]]
    """

    length: int | None = None
    vocabulary_size: int = 10_000
    ngrams: int = 1
    column: str = "text"
    labels: str = "label"
    classes: tuple[str, ...] | None = ()
    vocabulary: tuple[str, ...] = ()

    kind: ClassVar[str] = "text"
    subject: ClassVar[str] = "texts"

    def __post_init__(self) -> None:
        """Raise `DataError` for a field out of range."""
        for name, least in (("length", 1), ("vocabulary_size", 3), ("ngrams", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise DataError(f"Expected {name} of at least {least}, got {value!r}.")
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))  # a list, as layers return it, will do
        if self.vocabulary and self.vocabulary[:2] != (PADDING, UNKNOWN):
            raise DataError(
                f"Expected a vocabulary that begins with {PADDING!r} and {UNKNOWN!r}, got {self.vocabulary[:2]}; "
                "get_vocabulary() of a TextVectorization returns one."
            )
        if len(set(self.vocabulary)) < len(self.vocabulary):
            twice = next(token for token, count in Counter(self.vocabulary).items() if count > 1)
            raise DataError(f"Expected every token once in the vocabulary, got {twice!r} twice; remove one.")

    @override
    def fitted(self, raw: np.ndarray) -> tuple[Text, tuple[str, ...]]:
        """Return the front end with a vocabulary and a length from training texts `raw` (n,), and notes on both.

        Raises:
            DataError: there are no texts, or none has a token.
        """
        check_texts("the training texts", raw)
        if self.vocabulary and self.length:
            return self, ()
        rows = [self.tokens(text) for text in raw]
        if not any(rows):
            raise DataError(f"Expected words in the training texts, got punctuation alone, such as {raw[0]!r:.40}.")
        notes = []
        if empty := sum(not row for row in rows):
            notes.append(f"{counted(empty, 'training text')} of punctuation alone: no token, zeros alone")
        vocabulary, length = self.vocabulary, self.length
        if not vocabulary:
            vocabulary = vocabulary_of(rows, self.vocabulary_size)
            found = len(set(itertools.chain.from_iterable(rows)))
            notes.append(
                f"vocabulary: the {len(vocabulary) - 2:,} most frequent of {counted(found, 'token')} in the training "
                "texts"
            )
        if not length:
            lengths = np.array([len(row) for row in rows])
            length = int(np.clip(np.quantile(lengths, _HELD_WHOLE, method="inverted_cdf"), 1, _LONGEST))
            notes.append(
                f"texts of {length} tokens: {100 * np.mean(lengths <= length):.3g} % of the training texts are not "
                f"longer (the longest has {lengths.max():,}); the rest of a text is cut"
            )
        return replace(self, vocabulary=vocabulary, length=length), tuple(notes)

    @override
    def stored(self, raw: np.ndarray) -> np.ndarray:
        """Return texts `raw` (n,) as token ids, int32 (n, length).

        Raises:
            DataError: a text is empty, or the front end is not fitted.
        """
        if not self.vocabulary or not self.length:
            raise DataError("Expected a Text with a vocabulary and a length; `fitted` takes them from training texts.")
        check_texts("the texts", raw)
        numbers = {token: number for number, token in enumerate(self.vocabulary)}
        ids = np.zeros((len(raw), self.length), np.int32)
        for row, text in zip(ids, raw, strict=True):
            known = [numbers.get(token, 1) for token in self.tokens(text)[: self.length]]
            row[: len(known)] = known
        return ids

    @override
    def notes(self, parts: Sequence[np.ndarray]) -> tuple[str, ...]:
        """Return a note if most tokens of `parts` but the first, that of training, are unknown."""
        known, total = set(self.vocabulary), 0
        unknown = 0
        for text in itertools.chain.from_iterable(parts[1:] or parts):
            tokens = self.tokens(text)[: self.length]
            total += len(tokens)
            unknown += sum(token not in known for token in tokens)
        if unknown <= _MANY_UNKNOWN * total:
            return ()
        where = "the validation and test texts" if len(parts) > 1 else "the texts"
        return (
            f"{100 * unknown / total:.3g} % of the tokens in {where} are unknown to the vocabulary, all alike to a "
            "model: give more training texts; in languages without blanks between words (Chinese, Japanese, "
            "Thai), separate words or characters by blanks first",
        )

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of `text`."""
        words = text.encode().lower().translate(None, _PUNCTUATION).split()
        joined = (
            b" ".join(words[start : start + size])
            for size in range(1, self.ngrams + 1)
            for start in range(len(words) - size + 1)
        )
        return [token.decode() for token in joined]

    @override
    def apply(self, values: np.ndarray) -> np.ndarray:
        return np.array(values, np.int32)

    @override
    def describe(self) -> str:
        pairs = f" and groups of up to {self.ngrams}" if self.ngrams > 1 else ""
        return f"texts as int32 ids of {self.length} tokens{pairs}, of a vocabulary of {len(self.vocabulary):,}"

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the SHA-256 of the vocabulary, which is a separate file."""
        values = {key: value for key, value in asdict(self).items() if key != "vocabulary"}
        digest = hashlib.sha256(self.files()[VOCABULARY_FILE]).hexdigest()
        return {"kind": self.kind, **values, "vocabulary_sha256": digest}

    @override
    def files(self) -> dict[str, bytes]:
        """Return the vocabulary, one token per line; the number of a line, from 0, is the id."""
        return {VOCABULARY_FILE: "".join(f"{token}\n" for token in self.vocabulary).encode()}

    @override
    @classmethod
    def from_dict(cls, values: Mapping[str, Any], read: ReadFile) -> Self:
        """Return the front end whose `values` `to_dict` wrote; `read` gives its vocabulary.

        Raises:
            DataError: the vocabulary is another one, or the values are not those of a Text.
        """
        values = dict(values)
        stated, content = values.pop("vocabulary_sha256", None), read(VOCABULARY_FILE)
        if hashlib.sha256(content).hexdigest() != stated:
            raise DataError(
                f"Expected the {VOCABULARY_FILE} that the model was trained with (SHA-256 {str(stated)[:12]}...), got "
                "another one; restore it from the result, since other ids would mean other words."
            )
        return cls(**checked_keys(cls, values), vocabulary=tuple(content.decode().removesuffix("\n").split("\n")))


def vocabulary_of(rows: Iterable[list[str]], size: int) -> tuple[str, ...]:
    """Return the most frequent tokens of `rows` as a vocabulary of at most `size` entries."""
    counts = Counter(itertools.chain.from_iterable(rows))
    # As Keras does: by number, then by name, the last first. Names are compared as the bytes that they are there.
    ordered = sorted(counts, key=lambda token: (counts[token], token.encode()), reverse=True)
    return (PADDING, UNKNOWN, *ordered[: size - 2])


def as_strings(name: str, texts: np.ndarray, before: int = 0) -> np.ndarray:
    """Return an array of texts (n, ...) as objects, bytes decoded from UTF-8; an array of other values unchanged.

    Args:
        name: of the array in messages.
        texts: what tf.data and NumPy have: bytes, or strings of one length.
        before: the number of samples before the first.

    Raises:
        DataError: bytes are no UTF-8; the sample is named.
    """
    bytes_inside = texts.dtype.kind == "O" and any(isinstance(text, bytes) for text in texts.flat)
    if texts.dtype.kind not in "SU" and not bytes_inside:
        return texts
    found = texts.astype(object)
    for place, text in np.ndenumerate(found):
        try:
            found[place] = text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            sample = before + (place[0] if place else 0)
            raise DataError(
                f"Expected {name} as texts in UTF-8, got other bytes in sample {sample:,}: {text!r:.60}; decode them "
                "as what they are."
            ) from error
    return found


def check_texts(name: str, raw: np.ndarray) -> None:
    """Raise `DataError` unless `raw`, called `name`, are strings (n,) that are not blank."""
    if raw.ndim != 1 or not all(isinstance(text, str) for text in raw):
        raise DataError(f"Expected {name} as strings of shape (n,), got {raw.dtype} of shape {raw.shape}.")
    if blank := [row for row, text in enumerate(raw) if not text.strip()]:
        raise DataError(
            f"Expected words in every row, got {counted(len(blank), 'empty text')} in {name}, the first is row "
            f"{blank[0]}; remove or fill them."
        )
