"""OpenAI's own client takes the server for the real one: every call, every answer, each refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.server import RunningServer

_SCRIPT = Path(__file__).with_name("openai_client.py")
_LONG = 20_000  # lines of a batch that still runs when it is cancelled


@pytest.fixture
def answers(
    client_environment: dict[str, str],
    requests: bytes,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> dict[str, Any]:
    (tmp_path / "mydata.jsonl").write_bytes(requests)
    line = requests.splitlines(keepends=True)[0].decode()
    (tmp_path / "long.jsonl").write_text("".join(line.replace("good", f"r{n}") for n in range(_LONG)))
    run = subprocess.run(
        [sys.executable, _SCRIPT, "mydata.jsonl", "long.jsonl"],
        cwd=tmp_path,
        env=client_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answered: dict[str, Any] = json.loads(run.stdout)
    record_property("client", f"openai {answered['version']}")
    return answered


def test_openais_client_takes_every_answer_for_the_real_ones(
    answers: dict[str, Any], requests: bytes, server: RunningServer
) -> None:
    assert answers["version"] == version("openai")
    _check_files(answers, requests)
    _check_the_completed_batch(answers)
    _check_the_cancelled_batch(answers)
    _check_listings(answers)
    _check_refusals(answers)
    assert server.process.poll() is None


def _check_files(answers: dict[str, Any], requests: bytes) -> None:
    file = answers["file"]
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(requests),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + 3_600,
        "filename": "mydata.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert file["id"].startswith("file-")
    assert answers["retrieved_file"] == answers["processed_file"] == file
    assert answers["content"] == requests.decode()
    assert answers["deleted"] == {"id": answers["other"]["id"], "object": "file", "deleted": True}


def _check_the_completed_batch(answers: dict[str, Any]) -> None:
    batch, done = answers["batch"], answers["done"]
    asked = {
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": answers["file"]["id"],
        "completion_window": "24h",
        "metadata": {"team": "search"},
        "errors": None,
        "expires_at": batch["created_at"] + 86_400,
    }
    assert batch.items() >= asked.items()
    assert batch["status"] == "validating"
    assert batch["id"].startswith("batch_")
    assert done.items() >= {**asked, "id": batch["id"], "status": "completed"}.items()
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert batch["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"] > 0

    [good], [bad] = ([json.loads(line) for line in answers[name].splitlines()] for name in ("output", "error"))
    assert (good["custom_id"], good["error"], good["response"]["status_code"]) == ("good", None, 200)
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "hello"
    assert (bad["custom_id"], bad["error"], bad["response"]["status_code"]) == ("bad", None, 400)
    assert bad["response"]["body"]["error"]["type"] == "invalid_request_error"
    assert answers["output_file"].items() >= {"id": done["output_file_id"], "purpose": "batch_output"}.items()
    assert answers["output_file"]["bytes"] == len(answers["output"].encode())


def _check_the_cancelled_batch(answers: dict[str, Any]) -> None:
    cancelling, cancelled = answers["cancelling"], answers["cancelled"]
    assert (cancelling["status"], cancelled["status"]) == ("cancelling", "cancelled")
    assert cancelled["id"] == cancelling["id"]
    assert cancelled["cancelling_at"] == cancelling["cancelling_at"] <= cancelled["cancelled_at"]
    assert cancelled["completed_at"] is None
    assert answers["cancelled_lines"] == _LONG


def _check_listings(answers: dict[str, Any]) -> None:
    newest_first = [answers["cancelled"]["id"], answers["done"]["id"]]
    assert answers["batches_page"] == newest_first[:1]
    assert answers["batches"] == newest_first
    assert answers["batches_after"] == newest_first[1:]
    assert answers["files"] == [answers["file"]["id"], answers["cancelled"]["input_file_id"]]
    assert answers["user_data"] == [answers["other"]]


def _check_refusals(answers: dict[str, Any]) -> None:
    seen = {name: answers[name] for name in ("gone", "no_batch", "cancelled_late", "no_key", "no_file")}
    assert {name: (each["class"], each["status"]) for name, each in seen.items()} == {
        "gone": ("NotFoundError", 404),
        "no_batch": ("NotFoundError", 404),
        "cancelled_late": ("ConflictError", 409),
        "no_key": ("AuthenticationError", 401),
        "no_file": ("BadRequestError", 400),
    }
    assert seen["no_key"]["code"] == "invalid_api_key"
    for each in seen.values():
        assert each["body"].keys() == {"message", "type", "param", "code"}
        assert each["body"]["type"] == "invalid_request_error"
        assert each["body"]["message"]
