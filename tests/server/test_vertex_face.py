"""The server with Vertex AI's face makes, runs, lists and ends jobs as Vertex AI does, from and to Cloud Storage."""

from __future__ import annotations

import json
import re
import stat
import time
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.batch_server import jsonl
from support.vertex import BUCKET, ENDS, PARENT, Vertex, gemini_line, good, wanted

from airflow_provider_llmbatch.server.service_account import GRANT_TYPE, ServiceAccount

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


def test_a_job_takes_its_requests_from_one_object_and_leaves_its_answers_in_another(vertex: Vertex) -> None:
    uri = vertex.put(jsonl([gemini_line("a", "hello you"), gemini_line("b", None)]))
    asked = wanted(uri, labels={"team": "search"})
    created = good(vertex.http.post(PARENT, json=asked))
    name = created.pop("name")
    assert re.fullmatch(r"projects/[0-9]{12}/locations/us-central1/batchPredictionJobs/[0-9]{19}", name)
    at = created.pop("createTime")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", at)
    assert created == {**asked, "state": "JOB_STATE_QUEUED", "updateTime": at}

    done = vertex.until({"name": name}, *ENDS)
    times = [done.pop(key) for key in ("createTime", "startTime", "endTime", "updateTime")]
    assert times == sorted(times)
    prefix = asked["outputConfig"]["gcsDestination"]["outputUriPrefix"]  # type: ignore[index]
    directory = done["outputInfo"]["gcsOutputDirectory"]
    assert re.fullmatch(rf"{prefix}prediction-model-\d{{4}}-[^/]*Z", directory)
    assert done == {
        **asked,
        "name": name,
        "state": "JOB_STATE_SUCCEEDED",
        "outputInfo": {"gcsOutputDirectory": directory},
        "completionStats": {"successfulCount": "1", "failedCount": "1"},
    }
    assert vertex.outputs(done).keys() == {"predictions.jsonl", "incremental_predictions.jsonl"}
    bad, good_row = vertex.rows(done)
    assert good_row == {
        "status": "",
        "processed_time": good_row["processed_time"],
        "request": {
            "contents": [
                {
                    "role": "user",
                    "parts": [
                        {
                            "text": "hello you",
                            "inlineData": None,
                            "fileData": None,
                            "functionCall": None,
                            "functionResponse": None,
                        }
                    ],
                }
            ],
            "generationConfig": {"candidateCount": 1},
            "labels": {"row": "a"},
        },
        "response": {
            "candidates": [
                {"content": {"role": "model", "parts": [{"text": "hello you"}]}, "finishReason": "STOP"},
            ],
            "modelVersion": "gemini-2.5-flash",
            "responseId": good_row["response"]["responseId"],
            "createTime": "2023-11-14T22:13:20.000000Z",
            "usageMetadata": {
                "promptTokenCount": 2,
                "candidatesTokenCount": 2,
                "totalTokenCount": 4,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
            },
        },
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", good_row["processed_time"])
    assert good_row["response"]["responseId"].startswith("echo-")
    words = "Unable to submit request because at least one contents field is required."
    body = {"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}}
    assert bad["status"] == f"Bad Request: {json.dumps(body)}"
    assert (bad["request"]["labels"], bad["response"]) == ({"row": "b"}, {})


def test_many_rows_come_in_shards_in_another_order_and_the_incremental_ones_twice(vertex: Vertex) -> None:
    rows = [f"r{n}" for n in range(120)]
    done = vertex.run(jsonl(gemini_line(row) for row in rows))
    outputs = vertex.outputs(done)
    incremental = outputs.pop("incremental_predictions.jsonl")
    assert {name: len(found) for name, found in outputs.items()} == {
        "predictions.jsonl-00000-of-00003": 50,
        "predictions.jsonl-00001-of-00003": 50,
        "predictions.jsonl-00002-of-00003": 20,
    }
    came = [row["request"]["labels"]["row"] for found in outputs.values() for row in found]
    assert sorted(came) == sorted(rows)
    assert came != rows
    assert incremental == outputs["predictions.jsonl-00000-of-00003"]
    assert done["completionStats"] == {"successfulCount": "120"}


def test_a_project_is_known_by_its_id_and_by_its_number_and_a_job_only_where_it_was_made(vertex: Vertex) -> None:
    job = vertex.job(jsonl([gemini_line("a")]))
    by_id = f"{PARENT}/{job['name'].rpartition('/')[2]}"
    assert vertex.http.get(by_id).json()["name"] == job["name"]
    elsewhere = by_id.replace("us-central1", "europe-west4")
    assert vertex.http.get(elsewhere).status_code == 404
    assert vertex.http.get(by_id.replace("analytics", "others")).status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"displayName": ""}, 400, "batch_prediction_job.display_name; Message: Required field is not set."),
        ({"displayName": "x" * 129}, 400, "batch_prediction_job.display_name; Message: At most 128"),
        ({"model": None}, 400, "batch_prediction_job.model; Message: Required field is not set."),
        ({"model": "publishers/anthropic/models/claude-3"}, 400, "no batches of anthropic's models"),
        ({"model": "projects/1/locations/us-central1/models/7"}, 404, "The Model does not exist"),
        ({"labels": {"Team": "x"}}, 400, "The label key 'Team' is invalid"),
        ({"labels": {"team": "X"}}, 400, "The value 'X' of the label team is invalid"),
        ({"labels": {"team": "x" * 64}}, 400, "of the label team is invalid"),
        ({"inputConfig": {"instancesFormat": "bigquery"}}, 400, "the format jsonl"),
        ({"inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["s3://b/x"]}}}, 400, "gcs_source.uris"),
        ({"outputConfig": {"predictionsFormat": "jsonl"}}, 400, "output_uri_prefix"),
        ({"display": "x"}, 400, 'Unknown name "display": Cannot find field.'),
        ({"inputConfig": {"source": {}}}, 400, "Unknown name \"source\" at 'inputConfig'"),
    ],
)
def test_a_job_that_cannot_be_is_refused_when_it_is_made(
    vertex: Vertex, change: dict[str, object], status: int, words: str
) -> None:
    before = vertex.listed()
    refused = vertex.create("gs://bucket/in.jsonl", **change)
    assert refused.status_code == status
    error = refused.json()["error"]
    assert error == {
        "code": status,
        "message": error["message"],
        "status": {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[status],
    }
    assert words in error["message"]
    assert vertex.listed() == before


def test_names_in_snake_case_and_what_only_the_service_sets_are_taken(vertex: Vertex) -> None:
    uri = vertex.put(
        jsonl([{"request": {"contents": [{"parts": [{"text": "x"}]}], "generation_config": {"top_p": 1}}}])
    )
    asked = wanted(uri, state="JOB_STATE_SUCCEEDED", name="mine")
    asked["display_name"] = asked.pop("displayName")
    done = vertex.until(good(vertex.http.post(PARENT, json=asked)), *ENDS)
    assert done["displayName"] == "night"
    [row] = vertex.rows(done)
    assert (row["status"], row["request"]["generationConfig"]) == ("", {"candidateCount": 1, "topP": 1})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no request"),
        (b'{"request": {}}\nnonsense\n', "Line 2 of gs://"),
        (b'{"request": {}}\n{"contents": []}\n', 'has no "request"'),
        (b'"text"\n', "is no JSON object"),
        (b'{"request": {"contents": [{"parts": [{"text": "\xff"}]}]}}\n', "is no JSON object"),
    ],
)
def test_an_input_that_cannot_be_read_fails_the_job(vertex: Vertex, content: bytes, words: str) -> None:
    failed = vertex.run(content)
    assert (failed["state"], failed["error"]["code"]) == ("JOB_STATE_FAILED", 3)
    assert words in failed["error"]["message"]
    assert "outputInfo" not in failed
    assert list((vertex.data_dir / "uploads").iterdir()) == []


@pytest.mark.parametrize("uri", [f"gs://{BUCKET}/nothing.jsonl", "gs://no-such-bucket/in.jsonl"])
def test_an_input_that_is_not_there_fails_the_job(vertex: Vertex, uri: str) -> None:
    failed = vertex.until(good(vertex.create(uri)), *ENDS)
    assert failed["error"] == {"code": 3, "message": f"{uri} was refused by Cloud Storage: HTTP 404."}


def test_a_bucket_for_the_output_that_is_not_there_fails_the_job(vertex: Vertex) -> None:
    target = {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "gs://no-such-bucket/out"}}
    failed = vertex.run(jsonl([gemini_line("a")]), outputConfig=target)
    assert failed["state"] == "JOB_STATE_FAILED"
    assert "was refused by Cloud Storage: HTTP 404" in failed["error"]["message"]


def test_a_request_with_a_field_that_the_service_does_not_know_fails_alone(vertex: Vertex) -> None:
    lines = [
        gemini_line("good"),
        gemini_line("bad", generationConfig={"max_tokens": 5}),
        gemini_line("worse", generationConfig={"stopSequences": 5}),
    ]
    rows = {row["request"]["labels"]["row"]: row["status"] for row in vertex.rows(vertex.run(jsonl(lines)))}
    assert rows["good"] == ""
    assert rows["worse"].startswith("Bad Request: ")
    assert "Unknown name \\\"max_tokens\\\" at 'generationConfig': Cannot find field." in rows["bad"]


def test_lists_come_newest_first_in_pages_and_filtered(vertex: Vertex) -> None:
    place = PARENT.replace("us-central1", "europe-west1")

    def make(name: str, **labels: str) -> str:
        made = good(vertex.http.post(place, json=wanted(f"gs://{BUCKET}/none", displayName=name, labels=labels)))
        return str(made["name"].rpartition("/")[2])

    def listed(**query: str | int) -> list[str]:
        found = good(vertex.http.get(place, params=query))
        return [job["name"].rpartition("/")[2] for job in found.get("batchPredictionJobs", [])]

    first, second, third = make("one", key="a"), make("two", key="a", other="x-1"), make("two", key="b")
    for job_id in (first, second, third):
        vertex.until({"name": f"{place.removeprefix('/v1/')}/{job_id}"}, *ENDS)
    assert listed() == [third, second, first]
    for text, fits in {
        "labels.key=a": [second, first],
        'labels.key="a"': [second, first],
        "labels.key=a AND labels.other=x-1": [second],
        "NOT labels.key=a": [third],
        "labels.key!=a": [third],
        "labels.other:*": [second],
        'display_name="two" AND labels.key=b': [third],
        "display_name:wo": [third, second],
        "display_name:t*": [third, second],
        'state="JOB_STATE_FAILED"': [third, second, first],
        "state=JOB_STATE_RUNNING": [],
        'create_time>"2020-01-01T00:00:00Z"': [third, second, first],
        'create_time<"2020-01-01T00:00:00Z"': [],
    }.items():
        assert (text, listed(filter=text)) == (text, fits)
    page = good(vertex.http.get(place, params={"pageSize": 2, "readMask": "name,display_name"}))
    assert [job.keys() for job in page["batchPredictionJobs"]] == [{"name", "displayName"}] * 2
    rest = good(vertex.http.get(place, params={"pageSize": 2, "pageToken": page["nextPageToken"]}))
    assert [job["displayName"] for job in rest["batchPredictionJobs"]] == ["one"]
    assert "nextPageToken" not in rest
    assert good(vertex.http.get(place.replace("europe-west1", "asia-east1"))) == {}


@pytest.mark.parametrize(
    "text", ["labels.a=b OR labels.a=c", "model_display_name=x", "labels.a>b", "nonsense", "state:x"]
)
def test_a_filter_that_the_server_does_not_know_is_refused_and_not_left_out(vertex: Vertex, text: str) -> None:
    refused = vertex.http.get(PARENT, params={"filter": text})
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_a_job_that_has_ended_can_be_deleted_and_not_cancelled(vertex: Vertex) -> None:
    done = vertex.run(jsonl([gemini_line("a")]))
    refused = vertex.cancel(done)
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")
    operation = good(vertex.http.delete(f"/v1/{done['name']}"))
    assert operation["done"] is True
    assert re.fullmatch(r"projects/\d+/locations/us-central1/operations/\d+", operation["name"])
    gone = vertex.http.get(f"/v1/{done['name']}")
    assert gone.json() == {
        "error": {
            "code": 404,
            "message": f"The BatchPredictionJob does not exist: {done['name']}.",
            "status": "NOT_FOUND",
        }
    }
    assert vertex.rows(done)  # deleting a job leaves its output


def test_every_call_needs_a_token_and_every_refusal_is_one_of_googles(vertex: Vertex) -> None:
    def told(response: httpx.Response) -> tuple[int, str]:
        return response.status_code, response.json()["error"]["status"]

    for path in (PARENT, "/", "/v1/files"):
        assert told(vertex.http.get(path, headers={"Authorization": ""})) == (401, "UNAUTHENTICATED")
    wrong = {"Authorization": "Bearer ya29.nonsense"}
    assert told(vertex.http.get(PARENT, headers=wrong)) == (401, "UNAUTHENTICATED")
    assert told(vertex.http.get("/v1/files")) == (404, "NOT_FOUND")
    assert told(vertex.http.put(PARENT)) == (405, "FAILED_PRECONDITION")
    assert told(vertex.http.post(PARENT, content=b"{")) == (400, "INVALID_ARGUMENT")
    assert told(vertex.http.post(PARENT, content=b"[]")) == (400, "INVALID_ARGUMENT")
    assert told(vertex.http.get(PARENT, params={"pageSize": "x"})) == (400, "INVALID_ARGUMENT")
    assert told(vertex.http.get(PARENT, params={"pageToken": "x"})) == (400, "INVALID_ARGUMENT")


def _statement(account: dict[str, str], **other: object) -> str:
    now = int(time.time())
    claims = {"iss": account["client_email"], "iat": now, "exp": now + 3600, "scope": "cloud-platform", **other}
    return jwt.encode(claims, account["private_key"], algorithm="RS256")


def test_a_statement_that_the_key_has_signed_is_changed_for_a_token_or_stands_for_one(vertex: Vertex) -> None:
    def ask(statement: str, grant: str = GRANT_TYPE) -> httpx.Response:
        form = {"grant_type": grant, "assertion": statement}
        return vertex.http.post("/token", data=form, headers={"Authorization": ""})

    def passes(token: str) -> bool:
        return vertex.http.get(PARENT, headers={"Authorization": f"Bearer {token}"}).status_code == 200

    account = json.loads((vertex.data_dir / "service-account.json").read_text())
    made = ask(_statement(account)).json()
    assert made == {"access_token": made["access_token"], "expires_in": 3599, "token_type": "Bearer"}
    assert passes(made["access_token"])
    assert passes(_statement(account))

    stranger = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    forged = _statement({**account, "private_key": stranger.private_bytes(*form).decode()})
    long_ago = int(time.time()) - 10_000
    for wrong in (
        forged,
        _statement(account, iss="somebody@else.iam.gserviceaccount.com"),
        _statement(account, iat=long_ago, exp=long_ago + 3600),
        _statement(account, exp=int(time.time()) + 90_000),
        made["access_token"],
        "nonsense",
    ):
        refused = ask(wrong)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
        assert wrong == made["access_token"] or not passes(wrong)
    assert not passes(f"{made['access_token']}x")
    assert ask(_statement(account), "password").json()["error"] == "unsupported_grant_type"


def test_the_key_file_is_for_its_owner_only_and_keeps_its_key_when_the_address_changes(tmp_path: Path) -> None:
    file = tmp_path / "service-account.json"
    ServiceAccount(file, url="http://127.0.0.1:1", project="mine")
    first = json.loads(file.read_text())
    ServiceAccount(file, url="http://127.0.0.1:2", project="mine")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (
        first.items()
        >= {"type": "service_account", "project_id": "mine", "token_uri": "http://127.0.0.1:1/token"}.items()
    )
    assert json.loads(file.read_text()) == {**first, "token_uri": "http://127.0.0.1:2/token"}
    assert [path.name for path in tmp_path.iterdir()] == ["service-account.json"]
