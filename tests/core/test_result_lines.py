"""One line of a result file, as the providers and the servers like them write it: its outcome, and what lands of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from airflow_provider_llmbatch.core.results import result_of_line

if TYPE_CHECKING:
    from pydantic import JsonValue


def landed_of(line: dict[str, JsonValue], endpoint: str | None = None) -> dict[str, JsonValue]:
    result = result_of_line(json.dumps({"custom_id": "a", **line}).encode(), endpoint=endpoint)
    landed: dict[str, JsonValue] = json.loads(msgspec.json.encode(result))
    return landed


FULL = {"status_code": 200, "request_id": "req_1", "body": {"a": 1}}


def result(outcome: str, response: JsonValue, error: JsonValue) -> dict[str, JsonValue]:
    return {"custom_id": "a", "outcome": outcome, "response": response, "error": error}


def answered(status: JsonValue, body: JsonValue, *, request_id: str | None = None) -> dict[str, JsonValue]:
    return {"status_code": status, "request_id": request_id, "body": body}


@pytest.mark.parametrize(
    ("line", "landed"),
    [
        pytest.param({"response": FULL, "error": None}, result("succeeded", FULL, None), id="a good one"),
        pytest.param({"response": FULL}, result("succeeded", FULL, None), id="no error field"),
        pytest.param({"response": FULL, "error": {}}, result("succeeded", FULL, None), id="an error that is empty"),
        pytest.param(
            {"response": FULL, "error": ""}, result("succeeded", FULL, None), id="an error text that is empty"
        ),
        pytest.param(
            {"response": FULL, "error": {"code": None, "message": None}},
            result("succeeded", FULL, None),
            id="an error of nulls",
        ),
        pytest.param(
            {"response": {"status_code": "200", "body": {}}},
            result("succeeded", answered(200, {}), None),
            id="the status as a text",
        ),
        pytest.param(
            {"response": answered(200, '{"a": "x\\ny"}')},
            result("succeeded", answered(200, {"a": "x\ny"}), None),
            id="the body as a text that holds JSON",
        ),
        *[
            pytest.param(
                {"response": answered(200, text)},
                result("succeeded", answered(200, text), None),
                id=f"the body {text!r}",
            )
            for text in ["plain words", "7", "null", '"quoted"', "{broken", "", None, [1]]
        ],
        pytest.param(
            {"response": answered(400, {"error": {"code": "bad", "message": "No.", "type": "t"}})},
            result(
                "failed",
                answered(400, {"error": {"code": "bad", "message": "No.", "type": "t"}}),
                {"code": "bad", "message": "No."},
            ),
            id="refused, with the reason in the body",
        ),
        pytest.param(
            {"response": answered(400, '{"error": {"type": "bad_type", "message": "No."}}')},
            result(
                "failed",
                answered(400, {"error": {"type": "bad_type", "message": "No."}}),
                {"code": "bad_type", "message": "No."},
            ),
            id="refused, with the reason in a text, and a type for a code",
        ),
        pytest.param(
            {"response": answered(500, {"error": "Down."})},
            result("failed", answered(500, {"error": "Down."}), {"code": None, "message": "Down."}),
            id="refused, with a text for a reason",
        ),
        *[
            pytest.param(
                {"response": answered(status, {"x": 1})},
                result("failed", answered(status, {"x": 1}), {"code": code, "message": None}),
                id=f"status {status}",
            )
            for status, code in [
                (0, "http_0"),
                (-1, "http_-1"),
                (199, "http_199"),
                (300, "http_300"),
                (503, "http_503"),
                (None, "no_status"),
            ]
        ],
        pytest.param(
            {"response": {}},
            result("failed", answered(None, None), {"code": "no_status", "message": None}),
            id="an empty response",
        ),
        *[
            pytest.param(
                {"response": None, "error": {"code": code, "message": "m"}},
                result(outcome, None, {"code": code, "message": "m"}),
                id=code,
            )
            for code, outcome in [
                ("batch_expired", "expired"),
                ("batch_cancelled", "cancelled"),
                ("request_timeout", "failed"),
                ("of_next_year", "failed"),
            ]
        ],
        pytest.param(
            {"error": {"code": 400, "message": "m"}},
            result("failed", None, {"code": "400", "message": "m"}),
            id="a number for a code, and no response",
        ),
        pytest.param(
            {"error": "why"}, result("failed", None, {"code": None, "message": "why"}), id="a text for an error"
        ),
        pytest.param(
            {"response": FULL, "error": {"code": "late"}},
            result("failed", FULL, {"code": "late", "message": None}),
            id="both: the error counts",
        ),
        pytest.param(
            {},
            result(
                "failed",
                None,
                {"code": "no_response", "message": "The result has neither a response nor an error."},
            ),
            id="neither",
        ),
    ],
)
def test_a_line_has_one_outcome(line: dict[str, JsonValue], landed: dict[str, JsonValue]) -> None:
    assert landed_of(line) == landed


@pytest.mark.parametrize(
    ("endpoint", "body", "outcome", "error"),
    [
        (
            "/v1/responses",
            {"status": "failed", "error": {"code": "c", "message": "m"}},
            "failed",
            {"code": "c", "message": "m"},
        ),
        ("/v1/responses", {"status": "failed", "error": None}, "failed", {"code": "failed", "message": None}),
        ("/v1/responses", {"status": "completed", "error": None}, "succeeded", None),
        ("/v1/responses", {"status": "incomplete", "error": None}, "succeeded", None),
        ("/v1/chat/completions", {"status": "failed"}, "succeeded", None),
        (None, {"status": "failed"}, "succeeded", None),
    ],
)
def test_an_answer_of_the_responses_api_may_say_that_it_failed(
    endpoint: str | None, body: JsonValue, outcome: str, error: JsonValue
) -> None:
    landed = landed_of({"response": answered(200, body)}, endpoint)
    assert (landed["outcome"], landed["error"]) == (outcome, error)
