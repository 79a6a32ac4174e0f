"""Clients for Vertex AI, unmodified, take the server's face of it for the real one, and sign in with its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.batch_server import chat_line, jsonl
from support.connect_proxy import connect_proxy
from support.vertex import BUCKET, Vertex, gemini_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.server import RunningServer

_FOLDER = Path(__file__).parent
MODEL = "publishers/google/models/gemini-2.5-flash"


@pytest.fixture
def environment(vertex_server: RunningServer) -> dict[str, str]:
    own = ("PYTHON", "GOOGLE_", "GCS_", "VERTEX", "HTTP", "http", "SSL_", "REQUESTS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    key_file = str(vertex_server.data_dir / "service-account.json")
    return {
        **inherited,
        "GOOGLE_APPLICATION_CREDENTIALS": key_file,
        "GCS_PATH_SERVICE_ACCOUNT": key_file,
        "GCS_BUCKET_NAME": BUCKET,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else its table of prices comes from the internet
        "AIOHTTP_TRUST_ENV": "True",  # LiteLLM's own switch: it calls through aiohttp, which knows no proxy by itself
    }


def _run(environment: Mapping[str, str], python: str, script: str, *arguments: str) -> str:
    done = subprocess.run(
        [python, _FOLDER / script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("client", ["genai", "aiplatform"])
def test_googles_clients_get_from_an_object_to_results(
    client: str,
    vertex: Vertex,
    environment: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    uri = vertex.put(jsonl([gemini_line("good"), gemini_line("bad", None)]))
    output = f"gs://{BUCKET}/{client}"
    url = str(vertex.http.base_url).rstrip("/")
    answers = json.loads(_run(environment, sys.executable, "vertex_google_clients.py", client, url, uri, output))
    package = {"genai": "google-genai", "aiplatform": "google-cloud-aiplatform"}[client]
    record_property("client", f"{package} {answers['version']}")

    created, done, other = (answers[name] for name in ("created", "done", "other"))
    assert created.items() >= {"display_name": "night", "model": MODEL, "state": "JOB_STATE_QUEUED"}.items()
    assert done.items() >= {"name": created["name"], "state": "JOB_STATE_SUCCEEDED"}.items()
    counts = {"successful_count": 1, "failed_count": 1}
    assert {name: int(done["completion_stats"][name]) for name in counts} == counts
    directory = done["output_info"]["gcs_output_directory"]
    assert directory.startswith(f"{output}/prediction-model-")
    rows = {
        row["request"]["labels"]["row"]: row for row in vertex.rows({"outputInfo": {"gcsOutputDirectory": directory}})
    }
    assert rows["good"]["response"]["candidates"][0]["content"]["parts"] == [{"text": "hello"}]
    assert rows["bad"]["status"].startswith("Bad Request: ")
    assert (other["state"], other["error"]["code"]) == ("JOB_STATE_FAILED", 3)
    assert answers["listed"][:2] == [other["name"], done["name"]]
    _check_own(client, answers)


def _check_own(client: str, answers: dict[str, Any]) -> None:
    if client == "genai":
        assert answers["deleted"] == {"done": True}
        assert answers["refused"] == {"code": 404, "status": "NOT_FOUND"}
        return
    assert answers["found"] == [answers["done"]["name"]]
    assert answers["refusals"] == {"cancelled_late": "BadRequest", "gone": "NotFound"}


@pytest.fixture(scope="session")
def litellm_with_google(litellm_python: str) -> str:
    """LiteLLM's Vertex AI needs google-auth beside it, which it does not bring."""
    has_it = subprocess.run([litellm_python, "-c", "import google.auth"], capture_output=True, check=False)
    if has_it.returncode:
        assert os.environ.get("CI") != "true", "LiteLLM's environment must have google-auth in CI (make test)"
        pytest.skip("the environment of LiteLLM lacks google-auth")
    return litellm_python


def test_litellms_batch_calls_for_vertex_get_from_file_to_results(
    litellm_with_google: str,
    vertex: Vertex,
    environment: dict[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    lines = [{**chat_line(custom_id, f"hello {custom_id}")} for custom_id in ("a", "b")]
    for line in lines:
        line["body"]["model"] = "gemini-2.5-flash"
    (tmp_path / "in.jsonl").write_bytes(jsonl(lines))
    hosts = {
        "storage.googleapis.com": vertex.storage.url,
        "us-central1-aiplatform.googleapis.com": str(vertex.http.base_url),
    }
    with connect_proxy(tmp_path, hosts) as proxy:
        led = environment | dict(proxy.environment())
        arguments = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.json"))
        _run(led, litellm_with_google, "vertex_litellm_client.py", *arguments)
    assert set(proxy.asked) == hosts.keys()
    answers = json.loads((tmp_path / "out.json").read_text())
    record_property("client", f"litellm {answers['version']} (vertex_ai)")

    file, batch, done = answers["file"], answers["batch"], answers["retrieved"]
    uri = f"gs://{BUCKET}/{file['filename']}"
    assert (batch["status"], batch["input_file_id"]) == ("validating", uri)
    assert (done["id"], done["status"]) == (batch["id"], "completed")
    assert done["output_file_id"].endswith("/predictions.jsonl")
    assert answers["listed"][0] == batch["id"]
    results = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in map(json.loads, answers["output"].splitlines())
    }
    assert results == {"a": "hello a", "b": "hello b"}
