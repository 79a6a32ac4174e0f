"""Tokens of an answer, whatever its endpoint calls them, and of many answers together."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from airflow_provider_llmbatch.models import InputTokensDetails, OutputTokensDetails, Usage

_ABSURD_COUNT: Final = 2**53


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class UsageFound(msgspec.Struct, gc=False):
    """Token counts in the names of every endpoint."""

    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class Tokens(msgspec.Struct, gc=False):
    """Token counts of one answer or of many; what a server does not say counts 0.

    :param input: All of them; ``cached`` (read from a cache), ``cache_write`` (written to one), ``input_audio`` and
        ``input_image`` are among them.
    :param output: All of them; ``reasoning``, ``output_audio`` and ``output_image`` are among them.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    total: int = 0
    cache_write: int = 0
    input_audio: int = 0
    input_image: int = 0
    output_audio: int = 0
    output_image: int = 0

    def add(self, other: Tokens) -> None:
        self.input += other.input
        self.cached += other.cached
        self.output += other.output
        self.reasoning += other.reasoning
        self.total += other.total
        if other.has_rare_kinds():
            self.cache_write += other.cache_write
            self.input_audio += other.input_audio
            self.input_image += other.input_image
            self.output_audio += other.output_audio
            self.output_image += other.output_image

    def has_rare_kinds(self) -> bool:
        """Whether there is more to it than text that was read, cached or written."""
        return bool(self.cache_write or self.input_audio or self.input_image or self.output_audio or self.output_image)

    def fitted(self) -> Tokens:
        """The same, or a copy of which no kind is more than what it is a part of has left.

        Cached audio is counted as cached and as audio, and some servers count cached tokens beside the input.
        """
        special = self.cached + self.cache_write + self.input_audio + self.input_image
        if special <= self.input and self.output_audio + self.output_image <= self.output:
            return self
        cached = min(self.cached, self.input)
        written = min(self.cache_write, self.input - cached)
        heard = min(self.input_audio, self.input - cached - written)
        spoken = min(self.output_audio, self.output)
        return Tokens(
            self.input,
            cached,
            self.output,
            self.reasoning,
            self.total,
            written,
            heard,
            min(self.input_image, self.input - cached - written - heard),
            spoken,
            min(self.output_image, self.output - spoken),
        )

    def as_json(self) -> bytes:
        """In the names of ``models.Usage``."""
        if self.has_rare_kinds():
            return _encode(self.as_usage().model_dump())
        return (
            b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,'
            b'"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}'
            % (self.input, self.cached, self.output, self.reasoning, self.total)
        )

    def as_usage(self) -> Usage:
        return Usage(
            input_tokens=self.input,
            input_tokens_details=InputTokensDetails(
                cached_tokens=self.cached,
                cache_write_tokens=self.cache_write,
                audio_tokens=self.input_audio,
                image_tokens=self.input_image,
            ),
            output_tokens=self.output,
            output_tokens_details=OutputTokensDetails(
                reasoning_tokens=self.reasoning,
                audio_tokens=self.output_audio,
                image_tokens=self.output_image,
            ),
            total_tokens=self.total,
        )


_Count = Annotated[int, msgspec.Meta(ge=0, lt=_ABSURD_COUNT)]


class ChatUsage(msgspec.Struct, gc=False):
    """Token counts as chat completions name them, of which the sums are ones that can be."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    # No other names beside those, or which ones count would have to be decided.
    input_tokens: None = None
    output_tokens: None = None
    input_tokens_details: None = None
    output_tokens_details: None = None

    def tokens(self) -> Tokens:
        """The same as ``tokens_of`` finds, without looking for other names."""
        taken, read = self.prompt_tokens, self.prompt_tokens_details
        given, written = self.completion_tokens, self.completion_tokens_details
        return _tokens(taken, read, given, written, self.total_tokens or taken + given)


def tokens_of(usage: UsageFound) -> Tokens:
    """Counts that cannot be are 0, as are those that a server leaves out."""
    read = usage.input_tokens_details or usage.prompt_tokens_details
    written = usage.output_tokens_details or usage.completion_tokens_details
    taken = _count(usage.input_tokens or usage.prompt_tokens)
    given = _count(usage.output_tokens or usage.completion_tokens)
    return _tokens(taken, read, given, written, _count(usage.total_tokens) or taken + given)


def _tokens(taken: int, read: _Details | None, given: int, written: _Details | None, total: int) -> Tokens:
    tokens = Tokens(
        taken,
        _count(read.cached_tokens) if read is not None else 0,
        given,
        _count(written.reasoning_tokens) if written is not None else 0,
        total,
    )
    if read is not None and (read.cache_write_tokens or read.audio_tokens or read.image_tokens):
        tokens.cache_write = _count(read.cache_write_tokens)
        tokens.input_audio, tokens.input_image = _count(read.audio_tokens), _count(read.image_tokens)
    if written is not None and (written.audio_tokens or written.image_tokens):
        tokens.output_audio, tokens.output_image = _count(written.audio_tokens), _count(written.image_tokens)
    return tokens


def tokens_of_usage(usage: Usage) -> Tokens:
    """The counts of a whole batch, or of what was landed before."""
    read = usage.input_tokens_details or InputTokensDetails()
    written = usage.output_tokens_details or OutputTokensDetails()
    return Tokens(
        usage.input_tokens,
        read.cached_tokens,
        usage.output_tokens,
        written.reasoning_tokens,
        usage.total_tokens,
        read.cache_write_tokens,
        read.audio_tokens,
        read.image_tokens,
        written.audio_tokens,
        written.image_tokens,
    )


def _count(number: int | None) -> int:
    return number if number is not None and 0 < number < _ABSURD_COUNT else 0


_encode = msgspec.json.Encoder().encode
