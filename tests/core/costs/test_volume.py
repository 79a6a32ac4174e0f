"""What is counted of requests as they pass: characters by kind, messages, images, and how long answers may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.costs.volume import Texts, Volume, VolumeMeter, total_volume


def volume(*bodies: dict[str, Any], max_tokens: int | None = None, answers: int = 1) -> Volume:
    meter = VolumeMeter()
    for body in bodies:
        meter.add(json.dumps(body).encode(), max_tokens=max_tokens, answers=answers)
    return meter.volume()


def chat(*contents: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content} for content in contents]}


def test_each_character_counts_as_what_it_is_and_blanks_as_nothing() -> None:
    # 4-byte characters count as two of three bytes; JSON writes all of them as \u….
    assert volume({"prompt": 'Ab 12,\n\t"é" Ж 漢字 😀'}).texts == Texts(
        letters=2, digits=2, punctuation=3, two_byte=2, three_byte=4
    )


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        pytest.param(chat("abc", "de"), Texts(messages=2, letters=5), id="chat"),
        pytest.param(chat([{"type": "text", "text": "abc"}]), Texts(messages=1, letters=3), id="parts"),
        pytest.param({"instructions": "abc", "input": "de"}, Texts(letters=5), id="responses"),
        pytest.param({"input": ["ab", "cd"]}, Texts(letters=4), id="embeddings"),
        pytest.param({"input": [[1, 2, 3], [4]]}, Texts(token_ids=4), id="token ids"),
        pytest.param({"prompt": "a", "temperature": 0.25, "user": "somebody"}, Texts(letters=1), id="not read"),
        pytest.param({"prompt": "", "tools": [{"ab": 1}]}, Texts(letters=2, digits=1, punctuation=7), id="tools"),
        pytest.param([], Texts(), id="no object"),
    ],
)
def test_what_the_model_reads_counts_wherever_it_stands(body: dict[str, Any], texts: Texts) -> None:
    assert volume(body).texts == texts


def test_a_body_that_is_no_json_is_a_text() -> None:
    meter = VolumeMeter()
    meter.add(b'{"ab"')
    assert meter.volume().texts == Texts(letters=2, punctuation=3)


def test_what_is_no_text_is_counted_by_kind_and_its_data_are_no_letters() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000}}
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 5_000}}
    counted = volume(chat([{"type": "text", "text": "abc"}, picture, picture, sound]), chat("de"))
    assert (counted.images, counted.not_counted, counted.texts) == (2, {"audio": 1}, Texts(messages=2, letters=5))


def test_answers_are_bounded_one_by_one() -> None:
    counted = volume(chat("a"), max_tokens=100, answers=3) + volume(chat("a"), chat("a"), answers=2)
    assert (counted.rows, counted.answers, counted.bound, counted.unbounded) == (3, 7, 300, 4)


def test_a_few_requests_stand_for_many_of_their_kind() -> None:
    meter = VolumeMeter()
    for _ in range(10_000):
        meter.add(json.dumps(chat("abcde 12")).encode(), is_text=True)
    assert meter.volume().texts == Texts(messages=10_000, letters=50_000, digits=20_000)


some_volume = st.builds(
    lambda texts, bound: volume(*map(chat, texts), max_tokens=bound),
    st.lists(st.text(max_size=20), min_size=1, max_size=5),
    st.none() | st.integers(0, 1_000),
)


@settings(max_examples=30)
@given(some_volume, some_volume)
def test_volumes_add_up(one: Volume, other: Volume) -> None:
    both = total_volume([one, other])
    assert both == other + one
    assert (both.rows, both.bytes, both.bound) == (
        one.rows + other.rows,
        one.bytes + other.bytes,
        one.bound + other.bound,
    )


@settings(max_examples=30)
@given(some_volume, st.data())
def test_a_share_of_the_rows_is_never_more_than_all_of_them_and_never_less_than_its_part(
    whole: Volume, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(0, whole.rows))
    part, rest = whole.share(rows), whole.share(whole.rows - rows)
    assert whole.share(whole.rows) == whole
    for name in ("bytes", "answers", "bound", "unbounded"):
        assert getattr(part, name) <= getattr(whole, name) <= getattr(part, name) + getattr(rest, name)
    assert part.texts.letters <= whole.texts.letters <= part.texts.letters + rest.texts.letters
