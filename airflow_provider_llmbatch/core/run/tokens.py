"""Tokens of an answer, whatever its endpoint calls them, and of many answers together."""

from __future__ import annotations

from typing import Final

import msgspec

from airflow_provider_llmbatch.models import InputTokensDetails, OutputTokensDetails, Usage

_ABSURD_COUNT: Final = 2**53


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


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
    """Token counts of one answer or of many; what a server does not say counts 0."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    total: int = 0

    def add(self, other: Tokens) -> None:
        self.input += other.input
        self.cached += other.cached
        self.output += other.output
        self.reasoning += other.reasoning
        self.total += other.total

    def as_json(self) -> bytes:
        """In the names of ``models.Usage``."""
        return (
            b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,'
            b'"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}'
            % (self.input, self.cached, self.output, self.reasoning, self.total)
        )

    def as_usage(self) -> Usage:
        return Usage(
            input_tokens=self.input,
            input_tokens_details=InputTokensDetails(cached_tokens=self.cached),
            output_tokens=self.output,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=self.reasoning),
            total_tokens=self.total,
        )


def tokens_of(usage: UsageFound) -> Tokens:
    """Counts that cannot be are 0, as are those that a server leaves out."""
    read = usage.input_tokens_details or usage.prompt_tokens_details
    written = usage.output_tokens_details or usage.completion_tokens_details
    taken = _count(usage.input_tokens or usage.prompt_tokens)
    given = _count(usage.output_tokens or usage.completion_tokens)
    return Tokens(
        taken,
        _count(read.cached_tokens) if read else 0,
        given,
        _count(written.reasoning_tokens) if written else 0,
        _count(usage.total_tokens) or taken + given,
    )


def _count(number: int | None) -> int:
    return number if number is not None and 0 < number < _ABSURD_COUNT else 0
