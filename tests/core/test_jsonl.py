"""Request lines: split from any blocks, and checked so that what a provider would refuse is never uploaded."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_llmbatch.adapters.base import Limits
from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.core.jsonl import CheckedInput, check_requests, read_blocks
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

LIMITS = Limits(max_requests=5, max_file_bytes=2_000)
CHAT = "/v1/chat/completions"
NOTHING_PAID = "Nothing was uploaded or billed."
SAME_AGAIN = f"{NOTHING_PAID} A retry would find the same: mend the input."


def line(custom_id: str = "a", *, body: str = '{"model":"m"}', method: str = "POST", url: str = CHAT) -> str:
    return f'{{"custom_id":"{custom_id}","method":"{method}","url":"{url}","body":{body}}}'


def checked(content: str | bytes, limits: Limits = LIMITS) -> CheckedInput:
    given_bytes = content if isinstance(content, bytes) else content.encode()
    return check_requests(io.BytesIO(given_bytes), name="in.jsonl", limits=limits)


def refusal(content: str | bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(BatchInputError) as refused:
        checked(content, limits)
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"\n", [b""]),
        (b"a\n\n\nb\n\n", [b"a", b"", b"", b"b", b""]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
        ("a\u2028b\x85\x0bc\n".encode(), ["a\u2028b\x85\x0bc".encode()]),
    ],
)
def test_only_a_line_feed_ends_a_line_and_the_last_one_needs_none(content: bytes, lines: list[bytes]) -> None:
    assert list(split_lines([content])) == lines


@given(st.lists(st.text("ab\n\r\x00é").map(str.encode), max_size=12))
def test_lines_do_not_depend_on_where_blocks_end(blocks: list[bytes]) -> None:
    whole = b"".join(blocks)
    *lines, last = whole.split(b"\n")
    assert list(split_lines(blocks)) == [*lines, *([last] if last else [])]


def test_a_line_over_a_thousand_blocks_is_joined_in_linear_time() -> None:
    blocks = [b"x" * 10_000] * 1_000
    assert [len(text) for text in split_lines([*blocks, b"\n", b"y"])] == [10_000_000, 1]


def test_a_stream_is_read_from_where_it_stands() -> None:
    stream = io.BytesIO(b"skipped" + b"x" * 2_500_000)
    stream.seek(7)
    assert [len(block) for block in read_blocks(stream)] == [1_048_576, 1_048_576, 402_848]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["no line end", "LF", "CRLF"])
def test_what_a_good_input_holds_is_told(end: str) -> None:
    content = (line("a") + (end or "\n") + line("b") + end).encode()
    assert checked(content) == CheckedInput(
        requests=2, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), endpoint=CHAT, model="m"
    )


@pytest.mark.parametrize(
    "text",
    [
        line("x" * 256),
        line("ключ-🙂"),
        line("", body="{}").replace('""', '"\\u0000"'),
        line(body='{"model":null,"stream":null}'),
        line(body='{"stream":false}'),
        line(body='{"n":1' + "0" * 500 + "}"),
        line(body='{"x":' + "[" * 200 + "]" * 200 + "}"),
        line(body='{"text":"a\\nb \\ud83d\\ude42"}'),
        line(body='{"text":"a\u2028b"}'),
        " " + line() + "\t ",
        line()[:-1] + ',"extra":1}',
    ],
)
def test_odd_lines_that_are_right_pass(text: str) -> None:
    assert checked(text).requests == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is blank"),
        (" \r", "is blank"),
        ("{", "is not JSON: Input data was truncated"),
        ("{}", "is no batch request: Object missing required field `custom_id`"),
        ("[]", "is no batch request: Expected `object`, got `array`"),
        (line() + " x", "is not JSON: JSON is malformed: trailing characters (byte 85)"),
        (line(body='{"x":NaN}'), "is not JSON: JSON is malformed: invalid character (byte 74)"),
        (line(body='{"x":"a\tb"}'), "is not JSON: JSON is malformed: invalid character (byte 76)"),
        (line(body='"text"'), "is no batch request: Expected `object`, got `str` - at `$.body`"),
        (line(body='{"model":1}'), "is no batch request: Expected `str | null`, got `int` - at `$.body.model`"),
        (line().replace('"a"', "7"), "is no batch request: Expected `str`, got `int` - at `$.custom_id`"),
        (line().replace('"a"', "null"), "is no batch request: Expected `str`, got `null` - at `$.custom_id`"),
        (line("", body='{"model":"m"}'), "has an empty custom_id"),
        (line(method="post"), 'has the method "post"; the only one is "POST"'),
        (line(body='{"model":"m","stream":true}'), 'has "stream": true, which a batch cannot do'),
        (line("first"), 'has custom_id "first", which line 1 has too'),
        (line("\\u0066irst"), 'has custom_id "first", which line 1 has too'),
        (line(url="/v1/embeddings"), f'has the url "/v1/embeddings", but line 1 has "{CHAT}"'),
        (line(body='{"model":"other"}'), 'asks for the model "other", but line 1 for "m"'),
        (line(body="{}"), 'asks for the model the provider\'s default, but line 1 for "m"'),
        (
            line(body='{"text":"cut \\ud83d"}'),
            "holds half a character: an escape such as \\ud83d without its other half",
        ),
        (line("\\udc00"), "holds half a character: an escape such as \\ud83d without its other half"),
        (line(body='{"x":' + "[" * 100_000 + "]" * 100_000 + "}"), "is nested too deeply to be read"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_line_is_named_by_number_with_what_is_wrong(text: str, problem: str) -> None:
    content = f"{line('first')}\n{text}\n{line('third')}"
    limits = Limits(max_requests=5, max_file_bytes=1_000_000)
    assert refusal(content, limits) == f"Line 2 of in.jsonl {problem}. {SAME_AGAIN}"


def test_bytes_that_are_no_utf_8_are_found_where_json_is_not_looked_into() -> None:
    text = line(body='{"x":"?"}').encode().replace(b"?", b"\xff")
    assert refusal(text) == f"Line 1 of in.jsonl is not UTF-8 (byte {text.index(0xFF) + 1} of the line). {SAME_AGAIN}"


def test_the_first_line_must_ask_for_an_endpoint_that_batches_have() -> None:
    limits = Limits(max_requests=5, max_file_bytes=2_000, endpoints=frozenset({"/v1/b", "/v1/a"}))
    assert refusal(line(url="/v1/c"), limits) == (
        f'Line 1 of in.jsonl has the url "/v1/c"; a batch can have one of /v1/a, /v1/b. {SAME_AGAIN}'
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f"in.jsonl is empty. A batch needs at least one request. {NOTHING_PAID}"),
        (
            "\ufeff" + line(),
            f"in.jsonl begins with a byte order mark (BOM). Save it as UTF-8 without one. {NOTHING_PAID}",
        ),
        (
            "\n".join(line(str(number)) for number in range(6)),
            f"in.jsonl has more than the 5 lines that one batch may have. Split it. {NOTHING_PAID}",
        ),
        (
            line("x" * 2_000),
            f"in.jsonl is larger than the 2,000 bytes that one batch may have. Split it. {NOTHING_PAID}",
        ),
    ],
)
def test_an_input_is_refused_as_a_whole(content: str, message: str) -> None:
    assert refusal(content) == message


def test_an_input_of_exactly_the_limits_passes() -> None:
    content = "\n".join(line(str(number)) for number in range(5))
    limits = Limits(max_requests=5, max_file_bytes=len(content))
    assert checked(content, limits).requests == 5


def test_a_byte_order_mark_is_found_in_a_stream_that_gives_byte_after_byte() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 1))

    with pytest.raises(BatchInputError, match="byte order mark"):
        check_requests(Slow(b"\xef\xbb\xbf" + line().encode()), name="in.jsonl", limits=LIMITS)


def test_memory_holds_the_ids_and_a_block_and_not_the_input() -> None:
    body = '{"model":"m","text":"' + "x" * 10_000 + '"}'

    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self._lines = (f"{line(str(number), body=body)}\n".encode() for number in range(4_000))

        def read(self, size: int = -1, /) -> bytes:
            del size
            return b"".join(text for text, _ in zip(self._lines, range(50), strict=False))

    limits = Limits(max_requests=50_000, max_file_bytes=200_000_000)
    tracemalloc.start()
    try:
        found = check_requests(Endless(), name="in.jsonl", limits=limits)  # type: ignore[arg-type] # all that is used
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.bytes > 35_000_000
    assert peak < 5_000_000


# Property: exactly what a simple, slow reading of the rules takes is taken.


def reference(content: bytes) -> bool:
    """The rules, written out without regard for speed."""
    texts = content.split(b"\n")
    if texts[-1] == b"":
        texts.pop()
    if not texts or len(texts) > LIMITS.max_requests or len(content) > LIMITS.max_file_bytes:
        return False
    try:
        requests: list[JsonValue] = [json.loads(text.decode(), parse_constant=_refuse) for text in texts]
    except ValueError:
        return False
    return all(_is_request(request) for request in requests) and all(_agree(requests))


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_request(request: JsonValue) -> bool:
    if not isinstance(request, dict) or not isinstance(body := request.get("body"), dict):
        return False
    return (
        isinstance(request.get("custom_id"), str)
        and request["custom_id"] != ""
        and request.get("method") == "POST"
        and request.get("url") in LIMITS.endpoints
        and isinstance(body.get("model"), str | None)
        and (body.get("stream") is None or body["stream"] is False)
    )


def _agree(requests: list[JsonValue]) -> Iterator[bool]:
    dicts = [request for request in requests if isinstance(request, dict)]
    bodies = [request["body"] for request in dicts]
    yield len({str(request["custom_id"]) for request in dicts}) == len(dicts)
    yield len({str(request["url"]) for request in dicts}) == 1
    yield len({body.get("model") for body in bodies if isinstance(body, dict)}) == 1  # type: ignore[type-var]


# Good ones mostly, so that many inputs are good but for one thing.
custom_ids = st.sampled_from(["a", "b", "c", "d", "ä", "a\u2028"]) | st.sampled_from(["", None, 7, True])
bodies = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "m", "m", "m", "m", "other", None, 1])},
    optional={
        "stream": st.sampled_from([False, False, None, True, 0, 1, "no"]),
        "x": st.sampled_from([1.5, "é\n", []]),
    },
)
requests_or_not = st.fixed_dictionaries(
    {
        "custom_id": custom_ids,
        "method": st.sampled_from(["POST"] * 9 + ["GET"]),
        "url": st.sampled_from([CHAT] * 9 + ["/v1/embeddings", "/v1/none"]),
        "body": bodies | bodies | bodies | st.sampled_from([None, [], "text"]),
    }
)
lines_or_not = st.one_of(
    *[st.builds(json.dumps, requests_or_not, ensure_ascii=st.booleans()).map(str.encode)] * 9,
    st.sampled_from([b"", b" ", b"{}", b"null", b"{", b'"\xff"', b"NaN"]),
)


@given(st.lists(lines_or_not, max_size=6), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_exactly_what_the_rules_allow_is_allowed(texts: list[bytes], end: bytes, ends_whole: bool) -> None:
    content = end.join(texts) + (end if ends_whole else b"")
    try:
        checked(content)
        passes = True
    except BatchInputError:
        passes = False
    assert passes == reference(content)
