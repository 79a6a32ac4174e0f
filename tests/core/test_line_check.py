"""A provider may ask more of lines than OpenAI does, and take lines in a format of its own; both before the upload."""

from __future__ import annotations

import io
import json

import pytest

from airflow_provider_llmbatch.adapters.base import Limits
from airflow_provider_llmbatch.core.jsonl import CheckedInput, check_requests
from airflow_provider_llmbatch.errors import BatchInputError

LIMITS = Limits(max_requests=10, max_file_bytes=1_000)


class Doubling:
    """Lines become twice as long; own ones begin with a star, behind which the id stands."""

    def own_id(self, line: bytes) -> str | None:
        if line == b"*bad":
            raise ValueError("is bad in its own way")
        return line[1:].decode() if line.startswith(b"*") else None

    def uploaded_bytes(self, line: bytes) -> int:
        if b"forbidden" in line:
            raise ValueError('has "forbidden", which it cannot do')
        return 2 * len(line)


def line(custom_id: str, **body: object) -> bytes:
    content = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", **body}}
    return json.dumps(content).encode()


def checked(*lines: bytes, limits: Limits = LIMITS) -> CheckedInput:
    return check_requests(io.BytesIO(b"\n".join(lines)), name="in.jsonl", limits=limits, line_check=Doubling())


def test_good_lines_are_checked_as_ever() -> None:
    found = checked(line("a"), line("b"))
    assert (found.requests, found.model, found.endpoint) == (2, "m", "/v1/chat/completions")
    assert found.bytes == len(line("a") + line("b")) + 1


def test_lines_of_its_own_format_are_requests_for_chat_of_no_model() -> None:
    found = checked(b"*one", b"*two")
    assert (found.requests, found.model, found.endpoint) == (2, None, "/v1/chat/completions")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((line("a"), line("b", forbidden=1)), 'Line 2 of in.jsonl has "forbidden", which it cannot do. Nothing was'),
        ((b"*one", b"*bad"), "Line 2 of in.jsonl is bad in its own way. Nothing was uploaded or billed"),
        ((b"*one", b"*two", b"*one"), 'Line 3 of in.jsonl has custom_id "one", which line 1 has too'),
        ((b"*",), "Line 1 of in.jsonl has an empty custom_id"),
        ((b"*a", line("a")), 'Line 2 of in.jsonl has custom_id "a", which line 1 has too'),
        ((b"no JSON",), "Line 1 of in.jsonl is not JSON"),
        ((line("a", stream=True),), 'has "stream": true'),
    ],
)
def test_the_first_line_that_breaks_a_rule_is_named(lines: tuple[bytes, ...], problem: str) -> None:
    with pytest.raises(BatchInputError) as refused:
        checked(*lines)
    assert problem in str(refused.value)


def test_what_counts_is_the_size_as_it_is_uploaded() -> None:
    size = len(line("a"))
    assert checked(line("a"), limits=Limits(max_requests=1, max_file_bytes=2 * size)).bytes == size
    with pytest.raises(BatchInputError, match="becomes larger than the"):
        checked(line("a"), limits=Limits(max_requests=1, max_file_bytes=2 * size - 1))
