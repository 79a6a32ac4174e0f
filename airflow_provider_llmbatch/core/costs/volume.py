"""How much an input asks, whatever the model: characters by kind, messages, images, and the bounds of its answers.

Rows and the bounds of their answers are counted one by one. The texts of each 64th request are looked into, which costs
a hundredth of staging it, and stand for the others by their share of the bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALWAYS_READ: Final = 32  # the first requests of each part, so that a small one is known exactly
_READ_EACH: Final = 64
_LETTERS: Final = bytes([*range(65, 91), *range(97, 123)])
_DIGITS: Final = bytes(range(48, 58))
_BLANK: Final = bytes([*range(33), 127])
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_LEADS_OF_2: Final = bytes(range(0xC0, 0xE0))
_LEADS_OF_4: Final = bytes(range(0xF0, 0x100))

_TEXTS: Final = ("messages", "input", "prompt", "instructions", "system")
_AS_JSON: Final = ("tools", "functions", "response_format", "text")
"""What the provider puts before the model as JSON, or as something as long."""
_NOT_READ: Final = frozenset({"role", "type", "id", "call_id", "tool_call_id", "status", "cache_control"})
_IMAGES: Final = frozenset({"image_url", "input_image", "image"})
_NOT_COUNTED: Final = {
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "files",
    "input_file": "files",
    "video_url": "videos",
    "input_video": "videos",
}
_MARKED: Final = re.compile(rb'"type"\s*:\s*"(?:%b)"' % "|".join(sorted(_IMAGES | _NOT_COUNTED.keys())).encode()).search


class Texts(BaseModel):
    """Characters of what a model reads. Blanks are none: tokenizers join them to the word that follows.

    :param two_byte: Characters of two bytes in UTF-8: accents, Greek, Cyrillic, Hebrew, Arabic.
    :param three_byte: Of three, such as Chinese, Japanese, Korean, Hindi, Thai; those of four bytes count twice.
    :param token_ids: Tokens that are given as numbers, as embeddings and completions may.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    messages: int = 0
    letters: int = 0
    digits: int = 0
    punctuation: int = 0
    two_byte: int = 0
    three_byte: int = 0
    token_ids: int = 0

    def __add__(self, other: Texts) -> Texts:
        return Texts(**{name: getattr(self, name) + getattr(other, name) for name in _TEXT_FIELDS})

    def times(self, numerator: int, denominator: int) -> Texts:
        """A part of it, or a multiple, rounded up."""
        return Texts(**{name: -(-getattr(self, name) * numerator // denominator) for name in _TEXT_FIELDS})

    @property
    def beyond_ascii(self) -> float:
        """The share of characters that are not English's."""
        ascii_only = self.letters + self.digits + self.punctuation
        others = self.two_byte + self.three_byte
        return others / (ascii_only + others) if others else 0.0


class Volume(BaseModel):
    """What one part of an input, or all of it, asks for.

    :param bytes: Of the requests' bodies.
    :param answers: One for each row, unless it asks for several (``n``).
    :param bound: Output tokens that the bounded answers may have in all (``max_tokens`` and its other names).
    :param unbounded: Answers that may have as many as the model likes.
    :param images: That the requests hold, or refer to.
    :param not_counted: What else they hold whose tokens cannot be told beforehand, by kind.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    rows: int = 0
    bytes: int = 0
    texts: Texts = Texts()
    answers: int = 0
    bound: int = 0
    unbounded: int = 0
    images: int = 0
    not_counted: dict[str, int] = {}

    def __add__(self, other: Volume) -> Volume:
        return Volume(
            rows=self.rows + other.rows,
            bytes=self.bytes + other.bytes,
            texts=self.texts + other.texts,
            answers=self.answers + other.answers,
            bound=self.bound + other.bound,
            unbounded=self.unbounded + other.unbounded,
            images=self.images + other.images,
            not_counted=dict(Counter(self.not_counted) + Counter(other.not_counted)),
        )

    def share(self, rows: int) -> Volume:
        """What so many of its rows ask for, if they are like the others; everything is rounded up."""

        def part(count: int) -> int:
            return -(-count * rows // self.rows) if self.rows else 0

        return Volume(
            rows=rows,
            bytes=part(self.bytes),
            texts=self.texts.times(rows, self.rows or 1),
            answers=part(self.answers),
            bound=part(self.bound),
            unbounded=part(self.unbounded),
            images=part(self.images),
            not_counted={kind: part(count) for kind, count in self.not_counted.items()},
        )


_TEXT_FIELDS: Final = tuple(Texts.model_fields)


def total_volume(volumes: Iterable[Volume]) -> Volume:
    return sum(volumes, start=Volume())


class VolumeMeter:
    """Counts requests as they pass."""

    __slots__ = (
        "_answers",
        "_bound",
        "_bytes",
        "_exact",
        "_exact_bytes",
        "_rows",
        "_sampled",
        "_sampled_bytes",
        "_unbounded",
    )

    def __init__(self) -> None:
        self._rows = self._bytes = self._answers = self._bound = self._unbounded = 0
        self._sampled_bytes = self._exact_bytes = 0
        self._sampled, self._exact = _Reading(), _Reading()

    def add(self, body: bytes, max_tokens: int | None = None, answers: int = 1, *, is_text: bool = False) -> None:
        """:param max_tokens: Of one answer.
        :param is_text: Whether the body certainly holds nothing but texts.
        """
        rows = self._rows
        self._rows = rows + 1
        self._bytes += len(body)
        self._answers += answers
        if max_tokens is None:
            self._unbounded += answers
        else:
            self._bound += max_tokens * answers
        if not is_text and b'"type"' in body and _MARKED(body):
            # What is encoded in there tells nothing of other rows, and they nothing of it.
            self._exact_bytes += len(body)
            self._exact.read(body)
        elif not rows % _READ_EACH or rows < _ALWAYS_READ:
            self._sampled_bytes += len(body)
            self._sampled.read(body)

    def volume(self) -> Volume:
        """Of all that was added."""
        texts = self._sampled.texts()
        if self._sampled_bytes:
            texts = texts.times(self._bytes - self._exact_bytes, self._sampled_bytes)
        return Volume(
            rows=self._rows,
            bytes=self._bytes,
            texts=texts + self._exact.texts(),
            answers=self._answers,
            bound=self._bound,
            unbounded=self._unbounded,
            images=self._exact.images,
            not_counted=dict(self._exact.not_counted),
        )


class _Reading:
    """What stands in the bodies that were looked into."""

    def __init__(self) -> None:
        self.images = 0
        self.not_counted: Counter[str] = Counter()
        self._messages = self._token_ids = 0
        self._counts = [0] * 5
        self._pieces: list[str] = []

    def read(self, body: bytes) -> None:
        try:
            request = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            self._count(body)  # whoever runs it says what is wrong with it
            return
        if not isinstance(request, dict):
            return
        for name in _TEXTS:
            self._look(request.get(name))
        for name in _AS_JSON:
            if request.get(name):
                self._pieces.append(msgspec.json.encode(request[name]).decode())
        self._count("\n".join(self._pieces).encode("utf-8", "replace"))
        self._pieces.clear()

    def _look(self, value: object) -> None:
        if isinstance(value, str):
            self._pieces.append(value)
        elif isinstance(value, list):
            if value and all(isinstance(item, int) for item in value):
                self._token_ids += len(value)
                return
            for item in value:
                self._look(item)
        elif isinstance(value, dict):
            self._look_into(value)

    def _look_into(self, value: dict[str, object]) -> None:
        kind = value.get("type")
        if kind in _IMAGES:
            self.images += 1
        elif isinstance(kind, str) and kind in _NOT_COUNTED:
            self.not_counted[_NOT_COUNTED[kind]] += 1
        else:
            self._messages += "role" in value
            for name, inner in value.items():
                if name not in _NOT_READ:
                    self._look(inner)

    def _count(self, text: bytes) -> None:
        total = len(text)

        def of(kind: bytes) -> int:
            return total - len(text.translate(None, kind))

        letters, digits = of(_LETTERS), of(_DIGITS)
        beyond = 0 if text.isascii() else of(_CONTINUATION)
        two, four = (of(_LEADS_OF_2), of(_LEADS_OF_4)) if beyond else (0, 0)
        three = (beyond - two - 3 * four) // 2  # each has two continuation bytes
        punctuation = total - letters - digits - of(_BLANK) - beyond - two - three - four
        found = (letters, digits, punctuation, two, three + 2 * four)
        self._counts = [count + more for count, more in zip(self._counts, found, strict=True)]

    def texts(self) -> Texts:
        letters, digits, punctuation, two, three = self._counts
        return Texts(
            messages=self._messages,
            letters=letters,
            digits=digits,
            punctuation=punctuation,
            two_byte=two,
            three_byte=three,
            token_ids=self._token_ids,
        )
