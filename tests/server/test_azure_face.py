"""The server with Azure's face refuses, delays and answers as Azure OpenAI does, in both shapes of its API."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.batch_server import ScriptedEngine, chat_line, jsonl
from support.plain_http import NO_TLS
from support.server import RunningServer, running_server

from airflow_provider_llmbatch.server.__main__ import main
from airflow_provider_llmbatch.server.dialect import AZURE
from airflow_provider_llmbatch.server.engines.deployments import Deployments
from airflow_provider_llmbatch.server.validation import validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLDER, NEWER, V1 = "2024-10-21", "2025-04-01-preview", None
DAY = 86_400
EXPIRY = {"expires_after.anchor": "created_at", "expires_after.seconds": str(14 * DAY)}
LINE = jsonl([chat_line("a")])


class Azure:
    """Plain calls of one version of the API."""

    def __init__(self, server: RunningServer, version: str | None = V1) -> None:
        self.http = httpx.Client(
            base_url=server.url if version is None else server.url.removesuffix("/v1"),
            params={"api-version": version} if version else None,
            headers={"api-key": server.api_key},
            trust_env=False,
            verify=NO_TLS,
            timeout=30,
        )

    def upload(self, content: bytes = LINE, *, name: str = "in.jsonl", **fields: str) -> httpx.Response:
        return self.http.post("/files", data={"purpose": "batch", **fields}, files={"file": (name, content)})

    def input(self, content: bytes = LINE) -> str:
        """The id of an input file that is ``processed``."""
        file_id: str = self.upload(content, **EXPIRY).json()["id"]
        deadline = time.monotonic() + 10
        while self.http.get(f"/files/{file_id}").json()["status"] != "processed":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return file_id

    def create(self, file_id: str, endpoint: str = "/chat/completions", **more: object) -> httpx.Response:
        wanted = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}
        return self.http.post("/batches", json=wanted)

    def run(self, content: bytes = LINE) -> dict[str, Any]:
        created = self.create(self.input(content))
        assert created.is_success, created.text
        deadline = time.monotonic() + 20
        while True:
            batch: dict[str, Any] = self.http.get(f"/batches/{created.json()['id']}").json()
            if batch["status"].lower() in ("completed", "failed"):
                return batch
            assert time.monotonic() < deadline, batch
            time.sleep(0.02)


@contextmanager
def azure(server: RunningServer, version: str | None = V1) -> Iterator[Azure]:
    caller = Azure(server, version)
    with caller.http:
        yield caller


@pytest.fixture(params=[OLDER, NEWER, V1], ids=["older", "newer", "v1"])
def version(request: pytest.FixtureRequest) -> str | None:
    given: str | None = request.param
    return given


@pytest.fixture
def caller(azure_server: RunningServer, version: str | None) -> Iterator[Azure]:
    with azure(azure_server, version) as caller:
        yield caller


def test_success_has_the_status_of_the_version(caller: Azure, version: str | None) -> None:
    uploaded = caller.upload(**EXPIRY)
    location = None if version is V1 else f"/openai/files/{uploaded.json()['id']}"
    created = caller.create(caller.input())
    told = (uploaded.status_code, uploaded.headers.get("location"), created.status_code)
    assert told == {OLDER: (201, location, 200), NEWER: (201, location, 201), V1: (200, None, 201)}[version]
    assert len({answer.headers["apim-request-id"] for answer in (uploaded, created)}) == 2


def test_a_batch_of_a_file_that_is_still_read_is_refused(tmp_path: Path) -> None:
    face = ("--face", "azure", "--azure-file-seconds", "600")
    with running_server(tmp_path / "data", extra_args=face) as server, azure(server, NEWER) as caller:
        file = caller.upload().json()
        refused = caller.create(file["id"])
        listed = caller.http.get("/files").json()["data"]
    assert (file["status"], [each["status"] for each in listed]) == ("pending", ["pending"])
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalidPayload"
    assert "its status is 'pending'" in refused.json()["error"]["message"]


def test_a_file_that_cannot_be_read_ends_as_error_with_its_reason(tmp_path: Path) -> None:
    rule = {"fault": "error", "filename": "^bad", "details": "Not UTF-8."}
    (tmp_path / "faults.json").write_text(json.dumps({"files": [rule]}))
    face = ("--face", "azure", "--azure-file-seconds", "0", "--faults", str(tmp_path / "faults.json"))
    with running_server(tmp_path / "data", extra_args=face) as server, azure(server) as caller:
        bad, good = caller.upload(name="bad.jsonl").json(), caller.upload().json()
        refused = caller.create(bad["id"])
    assert [(each["status"], each["status_details"]) for each in (bad, good)] == [
        ("error", "Not UTF-8."),
        ("processed", None),
    ]
    assert refused.status_code == 400


@pytest.mark.parametrize("days", ["13", "31"])
def test_a_file_expires_after_14_to_30_days_or_never(days: str, caller: Azure) -> None:
    seconds = str(int(days) * DAY)
    refused = caller.upload(**{**EXPIRY, "expires_after.seconds": seconds})
    in_brackets = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(30 * DAY)}
    file, kept = caller.upload(**in_brackets).json(), caller.upload().json()
    assert refused.status_code == 400
    assert file["expires_at"] == file["created_at"] + 30 * DAY
    assert kept.get("expires_at") is None
    late = caller.create(caller.input(), output_expires_after={"anchor": "created_at", "seconds": 13 * DAY})
    assert (late.status_code, "output_expires_after" in late.text) == (400, True)


def test_a_resource_holds_so_many_files_without_an_expiry_until_one_is_deleted(tmp_path: Path) -> None:
    face = ("--face", "azure", "--azure-file-quota", "2")
    with running_server(tmp_path / "data", extra_args=face) as server, azure(server, NEWER) as caller:
        first, _, refused = [caller.upload() for _ in range(3)]
        with_expiry = caller.upload(**EXPIRY)
        caller.http.delete(f"/files/{first.json()['id']}")
        after = caller.upload()
    message = "The quota for files without expiry is reached. The maximum is 2."
    assert (refused.status_code, refused.json()) == (400, {"error": {"code": "quotaExceeded", "message": message}})
    assert (with_expiry.status_code, after.status_code) == (201, 201)


def test_a_full_queue_refuses_a_batch_at_once_and_tells_its_numbers(tmp_path: Path) -> None:
    face = ("--face", "azure", "--azure-file-seconds", "0", "--azure-token-limit", "100")
    with running_server(tmp_path / "data", extra_args=face) as server, azure(server, NEWER) as caller:
        small, large = caller.upload().json()["id"], caller.upload(LINE * 5).json()["id"]
        refused, taken = caller.create(large), caller.create(small)
        with azure(server) as v1:
            refused_v1 = v1.create(large)
    words = "The number of enqueued tokens has surpassed the configured limit of 100 for the deployment 'echo'."
    assert (refused.status_code, taken.status_code, refused_v1.status_code) == (400, 201, 400)
    assert refused.json() == {"error": {"code": "token_limit_exceeded", "message": words}}
    assert refused_v1.json()["error"].items() >= {"code": "token_limit_exceeded", "message": words}.items()
    numbers = [
        (answer.headers.get("deployment-enqueued-tokens"), answer.headers.get("deployment-maximum-enqueued-tokens"))
        for answer in (refused, taken, refused_v1)
    ]
    assert numbers == [("0", "100"), (str(len(LINE) // 4), "100"), (None, None)]


def test_the_older_version_answers_as_the_older_examples(azure_server: RunningServer) -> None:
    with azure(azure_server, OLDER) as caller:
        created = caller.create(caller.input()).json()
        failed = caller.run(jsonl([chat_line("a"), chat_line("a")]))
    assert (created["status"], created["endpoint"]) == ("Validating", None)
    assert created["created_at"].endswith("+00:00")
    assert created["request_counts"] == {"total": None, "completed": None, "failed": None}
    assert failed["status"] == "failed"
    [error] = failed["errors"]["value"]
    assert (error["code"], error["line"]) == ("duplicate_custom_id", "2")


def test_a_batch_without_failures_has_an_empty_error_file_and_lines_without_ids(caller: Azure) -> None:
    batch = caller.run()
    assert caller.http.get(f"/files/{batch['error_file_id']}/content").content == b""
    assert caller.http.get(f"/files/{batch['error_file_id']}").json()["bytes"] == 0
    [line] = caller.http.get(f"/files/{batch['output_file_id']}/content").text.splitlines()
    assert json.loads(line).keys() == {"custom_id", "response", "error"}


@pytest.mark.parametrize("url", ["/chat/completions", "/v1/chat/completions", "/responses", "/v1/responses"])
def test_the_endpoint_is_that_of_the_lines(url: str, azure_server: RunningServer) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    with azure(azure_server) as caller:
        batch = caller.run(jsonl([{"custom_id": "a", "method": "POST", "url": url, "body": body}]))
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 1)
    assert batch["endpoint"] == f"/v1/{url.removeprefix('/v1').strip('/')}"


def test_a_byte_order_mark_fails_the_batch_with_words_about_the_deployment(caller: Azure) -> None:
    batch = caller.run(b"\xef\xbb\xbf" + LINE)
    [error] = (batch["errors"].get("data") or batch["errors"].get("value"))[:1]
    assert (batch["status"], error["code"]) == ("failed", "model_not_found")
    assert "deployment name" in error["message"]


def test_a_batch_for_another_deployment_fails_as_a_whole() -> None:
    engine = Deployments(ScriptedEngine(model="mine"))
    batch: Any = None  # which the engine does not look at
    error = engine.objection(batch, "yours")
    assert error is not None
    assert error.code == "model_not_found"
    assert engine.objection(batch, "mine") is None


def test_a_batch_has_up_to_100_000_requests(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(LINE.replace(b'"a"', f'"{n}"'.encode()) for n in range(100_000)))
    assert validate(path, endpoint="/v1/chat/completions", dialect=AZURE) == (100_000, "echo", [])
    with path.open("ab") as stream:
        stream.write(LINE)
    _, _, errors = validate(path, endpoint="/v1/chat/completions", dialect=AZURE)
    assert [error.code for error in errors] == ["too_many_tasks"]


def test_a_batch_goes_on_after_its_window(tmp_path: Path) -> None:
    slow = {"requests": [{"fault": "delay", "seconds": 1.2, "times": 1}]}
    (tmp_path / "faults.json").write_text(json.dumps(slow))
    extra = ("--face", "azure", "--azure-file-seconds", "0", "--completion-window-seconds", "1", "--concurrency", "1")
    with (
        running_server(tmp_path / "data", extra_args=(*extra, "--faults", str(tmp_path / "faults.json"))) as server,
        azure(server) as caller,
    ):
        batch = caller.run(jsonl([chat_line("a"), chat_line("b")]))
    assert batch["expires_at"] == batch["created_at"] + 1
    assert batch["completed_at"] >= batch["expires_at"]
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 2)


@pytest.mark.parametrize(
    ("headers", "code", "words"),
    [
        ({"api-key": "sk-wrong"}, "401", "invalid subscription key"),
        ({"api-key": ""}, "401", "missing subscription key"),
        ({"api-key": "", "Authorization": "Bearer ey.not.it"}, "Unauthorized", "Access token is missing, invalid"),
    ],
    ids=["wrong key", "no key", "wrong token"],
)
def test_a_call_without_the_key_is_refused(headers: dict[str, str], code: str, words: str, caller: Azure) -> None:
    refused = caller.http.get("/batches", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, code)
    assert words in refused.json()["error"]["message"]
    assert "apim-request-id" in refused.headers


def test_the_key_is_taken_as_a_bearer_token_too(caller: Azure, azure_server: RunningServer) -> None:
    headers = {"api-key": "", "Authorization": f"Bearer {azure_server.api_key}"}
    assert caller.http.get("/batches", headers=headers).status_code == 200


def test_ten_headers_of_ones_own_are_taken_and_eleven_are_not(caller: Azure) -> None:
    ten = {f"X-Own-{n}": "1" for n in range(10)}
    assert caller.http.get("/batches", headers=ten).status_code == 200
    assert caller.http.get("/batches", headers={**ten, "X-Own-10": "1"}).status_code == 431


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/batches", 404),
        ("/openai/batches?api-version=2023-01-01", 404),
        ("/openai/batches?api-version=v1", 404),
        ("/openai/v1/batches?api-version=2024-10-21", 400),
        ("/openai/deployments/echo/batches?api-version=2024-10-21", 404),
        ("/v1/batches", 404),
        ("/openai/batches?api-version=2024-10-21&$filter=status%20eq%20'completed'", 400),
        ("/openai/v1/batches?api-version=v1", 200),
        ("/openai/v1/batches?api-version=preview", 200),
    ],
)
def test_a_path_is_served_in_its_own_versions_only(path: str, status: int, azure_server: RunningServer) -> None:
    with azure(azure_server) as caller:
        assert caller.http.get(azure_server.url.removesuffix("/openai/v1") + path).status_code == status


def test_refusals_have_the_body_of_their_shape(caller: Azure, version: str | None) -> None:
    error = caller.http.get("/files/file-unknown").json()["error"]
    message = "No such File object: file-unknown"
    if version is V1:
        assert error == {"message": message, "type": "invalid_request_error", "param": "id", "code": None}
    else:
        assert error == {"code": "notFound", "message": message, "target": "id"}


def test_rules_for_files_need_the_face_whose_files_have_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faults.json").write_text(json.dumps({"files": [{"fault": "error"}]}))
    arguments = ["--engine", "echo", "--data", str(tmp_path / "data"), "--faults", str(tmp_path / "faults.json")]
    assert main(arguments) == 2
    assert "they need --face azure" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(seconds: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--engine", "echo", "--data", str(tmp_path / "data"), "--azure-file-seconds", seconds])
