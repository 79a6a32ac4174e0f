"""Ids and metadata as labels: back exactly as they went, or refused."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_llmbatch.adapters.vertex.labels import id_of_labels, labels_of_id, labels_of_metadata
from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused

LEGAL = re.compile(r"[a-z0-9_-]{1,63}")
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256).filter(
    lambda text: len(text.encode()) <= 256
)


@given(IDS, st.randoms(use_true_random=False))
@example("a" * 63, Random(0))
@example("a" * 64, Random(0))
@example("😀" * 64, Random(0))
@example("Row 1", Random(0))
@example("\0", Random(0))
@example("mzxw6", Random(0))  # what base32 of "foo" looks like
def test_any_id_comes_back_exactly_in_whatever_order_and_company(custom_id: str, random: Random) -> None:
    labels = labels_of_id(custom_id)
    assert all(LEGAL.fullmatch(value) for value in labels.values())
    assert len(labels) <= 7
    echoed: list[tuple[str, str | None]] = [*labels.items(), ("team", "x"), ("gone", None)]
    random.shuffle(echoed)
    assert id_of_labels(dict(echoed)) == custom_id


def test_an_id_of_label_characters_stays_readable() -> None:
    assert labels_of_id("row-1_a") == {"llmbatch_id": "row-1_a"}
    assert labels_of_id("-") == {"llmbatch_id": "-"}


def test_any_other_id_is_coded_over_as_many_labels_as_it_takes() -> None:
    assert labels_of_id("Row 1") == {"llmbatch_id_0": "kjxxoibr"}
    assert list(labels_of_id("A" * 256)) == [f"llmbatch_id_{i}" for i in range(7)]


def test_an_id_longer_than_all_labels_is_refused() -> None:
    assert len(labels_of_id("A" * 2520)) == 64
    with pytest.raises(LineRefused, match=r"^has a custom_id of 2,521 bytes, which is more than .* 256 always fit$"):
        labels_of_id("A" * 2521)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({}, 'it has no label "llmbatch_id"'),
        ({"llmbatch_id": None}, 'it has no label "llmbatch_id"'),
        ({"team": "a"}, 'it has no label "llmbatch_id"'),
        ({"llmbatch_id_0": "!"}, 'its labels hold half an id in "llmbatch_id_0"'),
        ({"llmbatch_id_0": "74"}, 'its labels hold half an id in "llmbatch_id_0"'),
        ({"llmbatch_id_1": "ie"}, 'its labels hold only pieces of an id, of "llmbatch_id_0" and so on'),
        (
            {"llmbatch_id_0": "ie", "llmbatch_id_2": "ie"},
            'its labels hold only pieces of an id, of "llmbatch_id_0" and so on',
        ),
    ],
)
def test_labels_that_hold_no_whole_id_say_so(labels: dict[str, str | None], why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        id_of_labels(labels)


def test_legal_metadata_goes_as_it_is() -> None:
    pairs = {"a": "", "team_1-x": "0-9_z", "k" * 63: "v" * 63}
    assert labels_of_metadata(pairs) == pairs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("", "v"), ("K", "v"), ("1k", "v"), ("k.1", "v"), ("k" * 64, "v"), ("llmbatch_id", "v"), ("é", "v")),
        *(("k", "V"), ("k", "a b"), ("k", "v" * 64), ("k", "é"), ("k", "v\n"), ("k\n", "v")),
    ],
)
def test_metadata_that_is_no_label_is_refused_and_never_bent(key: str, value: str) -> None:
    with pytest.raises(LineRefused) as refused:
        labels_of_metadata({"fine": "x", key: value})
    assert refused.value.param == "metadata"
    assert str(refused.value).startswith(f'has the metadata "{key}"' if value == "v" else f"has metadata.{key} of ")


def test_a_value_that_is_refused_does_not_stand_in_the_message() -> None:
    with pytest.raises(LineRefused, match=r"^has metadata.k of 5 characters, and Vertex AI keeps it as a label") as why:
        labels_of_metadata({"k": "Alice"})
    assert "Alice" not in str(why.value)
