"""LiteLLM's client, with the calls of its documentation, takes the server for OpenAI."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_SCRIPT = Path(__file__).with_name("litellm_client.py")
_PINNED = next(
    line.removeprefix("litellm==")
    for line in (Path(__file__).parents[2] / "constraints" / "litellm.txt").read_text().splitlines()
    if line.startswith("litellm==")
)


@pytest.fixture
def answers(
    litellm_python: str,
    client_environment: dict[str, str],
    requests: bytes,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> dict[str, Any]:
    (tmp_path / "mydata.jsonl").write_bytes(requests)
    run = subprocess.run(
        [litellm_python, _SCRIPT, "mydata.jsonl", "answers.json"],
        cwd=tmp_path,
        # Its table of prices comes from the internet otherwise, three attempts long.
        env={**client_environment, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answered: dict[str, Any] = json.loads((tmp_path / "answers.json").read_text())
    record_property("client", f"litellm {answered['version']}")
    return answered


def test_litellms_client_gets_from_file_to_results(answers: dict[str, Any], requests: bytes) -> None:
    assert answers["version"] == _PINNED
    file, batch, done = answers["file"], answers["batch"], answers["retrieved"]
    assert file.items() >= {"bytes": len(requests), "filename": "mydata.jsonl", "purpose": "batch"}.items()
    assert answers["content"] == requests.decode()
    asked = {
        "id": batch["id"],
        "endpoint": "/v1/chat/completions",
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
    assert [(each["id"], each["status"]) for each in answers["listed"]] == [(batch["id"], "completed")]
