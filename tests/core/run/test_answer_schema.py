"""From a Pydantic model or a JSON schema to what providers take, as OpenAI's own client makes it."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from airflow_provider_llmbatch.core.run.answer_schema import answer_schema, json_schema_format, strict_schema
from airflow_provider_llmbatch.errors import BatchInputError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """Somewhere."""

    town: str
    of: Place | None = None


class Review(BaseModel):
    label: Literal["good", "bad"]
    score: float = 0.5
    colour: Colour = Field(description="Of the parcel")
    where: Place = Field(description="From where")
    other: list[Place] | None = None


class Free(BaseModel):
    words: dict[str, int]


def test_a_pydantic_model_becomes_the_strict_schema_that_openais_client_sends() -> None:
    schema, name = answer_schema(Review)
    assert json_schema_format(schema, name) == {
        "name": "Review",
        "schema": to_strict_json_schema(Review),
        "strict": True,
    }
    assert schema == Review.model_json_schema()


@pytest.mark.parametrize("model", [Review, Place])
def test_making_a_schema_strict_twice_changes_nothing(model: type[BaseModel]) -> None:
    once = strict_schema(model.model_json_schema())
    assert strict_schema(once) == once


def test_a_schema_with_free_keys_is_sent_as_it_is_and_not_as_a_strict_one() -> None:
    schema, name = answer_schema(Free)
    assert json_schema_format(schema, name) == {"name": "Free", "schema": schema, "strict": False}


@pytest.mark.parametrize(
    ("given_format", "expected"),
    [
        ({"type": "object", "title": "My answer!"}, ({"type": "object", "title": "My answer!"}, "My_answer_")),
        ({"type": "object"}, ({"type": "object"}, "answer")),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            ({"type": "object"}, "n"),
        ),
    ],
)
def test_a_schema_may_be_given_in_either_shape(given_format: dict[str, Any], expected: object) -> None:
    assert answer_schema(given_format) == expected


@pytest.mark.parametrize("value", ["text", {}, int])
def test_what_is_no_schema_is_refused(value: Any) -> None:
    with pytest.raises(BatchInputError, match="and not a Pydantic model or a JSON schema as a dict"):
        answer_schema(value)


def test_a_reference_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(BatchInputError, match="refers to '#/x/y', which is not in it"):
        strict_schema({"$ref": "#/x/y", "description": "d"})
