"""Clients for Azure OpenAI, unmodified, take the server with Azure's face for the real one, in both URL shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FOLDER = Path(__file__).parent
_DAY = 86_400
OLDER, NEWER = "2024-10-21", "2025-04-01-preview"


@pytest.fixture
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Its files are processed soon, but not before a client asks the first time."""
    face = ("--face", "azure", "--azure-file-seconds", "0.4")
    with running_server(tmp_path_factory.mktemp("azure"), extra_args=face) as server:
        yield server


@pytest.fixture
def environment(azure: RunningServer) -> dict[str, str]:
    own = ("PYTHON", "OPENAI_", "AZURE_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    resource = azure.url.removesuffix("/openai/v1")
    return {
        **inherited,
        "AZURE_OPENAI_ENDPOINT": resource,
        "OPENAI_BASE_URL": azure.url,
        "AZURE_API_BASE": resource,
        "AZURE_API_KEY": azure.api_key,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else its table of prices comes from the internet
    }


@pytest.fixture
def run(environment: dict[str, str], requests: bytes, tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "mydata.jsonl").write_bytes(requests)

    def run(python: str, script: str, *arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [python, _FOLDER / script, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("shape", [OLDER, NEWER, "v1"])
def test_openais_clients_get_from_file_to_results(
    shape: str,
    run: Callable[..., str],
    azure: RunningServer,
    requests: bytes,
    record_property: Callable[[str, object], None],
) -> None:
    answers = json.loads(run(sys.executable, "azure_openai_client.py", shape, azure.api_key, "mydata.jsonl"))
    assert answers["version"] == version("openai")
    assert answers["client"] == ("OpenAI" if shape == "v1" else "AzureOpenAI")
    record_property("client", f"openai {answers['version']} ({answers['client']}, {shape})")
    _check_files(answers, requests)
    _check_batch(answers, shape)
    _check_refusals(answers, shape)
    assert len(answers["request_id"]) == 36


def _check_files(answers: dict[str, Any], requests: bytes) -> None:
    file = answers["file"]
    expires_at = file["created_at"] + 14 * _DAY
    assert file.items() >= {"bytes": len(requests), "status": "pending", "expires_at": expires_at}.items()
    assert answers["processed"] == {**file, "status": "processed"}
    assert answers["too_early"]["status"] == 400
    assert answers["content"] == requests.decode()
    assert answers["other"].get("expires_at") is None
    assert {file["id"], answers["other"]["id"]} <= set(answers["files"])
    assert answers["deleted"] == {"id": answers["other"]["id"], "object": "file", "deleted": True}


def _check_batch(answers: dict[str, Any], shape: str) -> None:
    batch, done = answers["batch"], answers["done"]
    assert batch["status"] == ("Validating" if shape == OLDER else "validating")
    assert isinstance(batch["created_at"], str if shape == OLDER else int)
    assert (batch["output_file_id"], batch["error_file_id"]) == ("", "")
    asked = {
        "id": batch["id"],
        "status": "completed",
        "endpoint": "/v1/chat/completions" if shape == "v1" else "/chat/completions",
        "input_file_id": answers["file"]["id"],
        "metadata": {"team": "search"},
        "request_counts": {"total": 2, "completed": 1, "failed": 1},
    }
    assert done.items() >= asked.items()
    [good], [bad] = ([json.loads(line) for line in answers[name].splitlines()] for name in ("output", "error"))
    assert (good.keys(), good["custom_id"]) == ({"custom_id", "response", "error"}, "good")
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "hello"
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400)
    assert answers["batches"] == [batch["id"]]


def _check_refusals(answers: dict[str, Any], shape: str) -> None:
    is_v1 = shape == "v1"
    told = {name: list(answers[name].values()) for name in ("gone", "no_batch", "cancelled_late", "wrong_key")}
    assert told == {
        "gone": ["NotFoundError", 404, None if is_v1 else "notFound"],
        "no_batch": ["NotFoundError", 404, None if is_v1 else "notFound"],
        "cancelled_late": ["ConflictError", 409, "invalid_status" if is_v1 else "unexpectedEntityState"],
        "wrong_key": ["AuthenticationError", 401, "Unauthorized" if is_v1 else "401"],
    }


@pytest.mark.parametrize("shape", [NEWER, "v1"])
def test_litellms_batch_calls_for_azure_get_from_file_to_results(
    shape: str,
    litellm_python: str,
    run: Callable[..., str],
    requests: bytes,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    run(litellm_python, "azure_litellm_client.py", "mydata.jsonl", "answers.json", AZURE_API_VERSION=shape)
    answers = json.loads((tmp_path / "answers.json").read_text())
    record_property("client", f"litellm {answers['version']} (azure, {shape})")
    file, batch, done = answers["file"], answers["batch"], answers["retrieved"]
    assert file.items() >= {"bytes": len(requests), "filename": "mydata.jsonl", "purpose": "batch"}.items()
    asked = {
        "id": batch["id"],
        "input_file_id": file["id"],
        "completion_window": "24h",
        "metadata": {"key1": "value1", "key2": "value2"},
    }
    assert batch.items() >= asked.items()
    assert done.items() >= {**asked, "status": "completed"}.items()
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    [good], [bad] = ([json.loads(line) for line in answers[name].splitlines()] for name in ("output", "error"))
    assert (good["custom_id"], good["response"]["body"]["choices"][0]["message"]["content"]) == ("good", "hello")
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400)
    for listed in (answers["listed"], answers["listed_at_once"]):
        assert [(each["id"], each["status"]) for each in listed] == [(batch["id"], "completed")]
