"""Before anything is uploaded: what would fail in every request, or halfway through, is refused at no cost."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from upath import UPath

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.body_parameters import PARAMETERS
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.core.run.preflight import (
    check_model,
    check_output,
    check_parameters,
    check_space,
    check_texts,
)
from airflow_provider_llmbatch.core.run.requests import RequestTemplate
from airflow_provider_llmbatch.core.run.sources import FileSource
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import BatchInputError, LLMBatchError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.adapters.base import Adapter

_LINES = Path(__file__).parents[4] / "shared" / "specs" / "openai-batch-lines.yaml"
KEY = "sk-test-0123456789"


@pytest.fixture
def openai() -> Iterator[Adapter]:
    adapter = OpenAIAdapter(OpenAISettings(KEY))
    yield adapter
    adapter.close()


@pytest.fixture
def azure() -> Iterator[Adapter]:
    adapter = AzureAdapter(AzureSettings("https://name.openai.azure.com", api_key=KEY))
    yield adapter
    adapter.close()


def refusal(adapter: Adapter, parameters: dict[str, object], endpoint: str = "/v1/chat/completions") -> str:
    with pytest.raises(BatchInputError) as refused:
        check_parameters(adapter, RequestTemplate("x", parameters=parameters, endpoint=endpoint))
    return str(refused.value)


def test_a_parameter_that_openai_does_not_know_is_refused_with_the_one_that_is_meant(openai: Adapter) -> None:
    assert refusal(openai, {"temperature": 0, "max_completion_token": 5}) == (
        "The parameters cannot be sent: OpenAI knows no 'max_completion_token' in requests for /v1/chat/completions; "
        "perhaps 'max_completion_tokens' is meant. Nothing was uploaded or billed. A retry would find the same: "
        "correct parameters=."
    )
    assert "knows no 'zzz' in requests for /v1/responses. Nothing" in refusal(openai, {"zzz": 1}, "/v1/responses")


def test_what_azure_has_besides_is_known_there_only(openai: Adapter, azure: Adapter) -> None:
    for endpoint in ("/v1/chat/completions", "/chat/completions"):
        check_parameters(azure, RequestTemplate("x", parameters={"data_sources": [], "seed": 1}, endpoint=endpoint))
        assert "Azure OpenAI knows no 'sead'" in refusal(azure, {"sead": 1}, endpoint)
    assert "OpenAI knows no 'data_sources'" in refusal(openai, {"data_sources": []})


def test_other_servers_and_other_endpoints_have_parameters_of_their_own(openai: Adapter) -> None:
    vllm = OpenAIAdapter(OpenAISettings(KEY, base_url="http://localhost:8000/v1"))
    check_parameters(vllm, RequestTemplate("x", parameters={"guided_choice": ["a"]}))
    check_parameters(openai, RequestTemplate("x", parameters={"size": "1024x1024"}, endpoint="/v1/images/generations"))
    vllm.close()


@pytest.mark.parametrize("name", ["stream_options", "background"])
def test_what_a_batch_cannot_do_is_refused_everywhere(name: str) -> None:
    vllm = OpenAIAdapter(OpenAISettings(KEY, base_url="http://localhost:8000/v1"))
    assert f"a batch cannot do what {name!r} asks for" in refusal(vllm, {name: True})
    vllm.close()


def test_the_parameters_are_those_of_openais_own_description() -> None:
    if not _LINES.is_file():
        assert os.environ.get("CI") != "true", f"{_LINES} must be there in CI"
        pytest.skip("OpenAI's OpenAPI description is not beside the checkout")
    import yaml

    described = yaml.load(_LINES.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    schemas = described["components"]["schemas"]

    def names(schema: Any) -> set[str]:
        if "$ref" in schema:
            return names(schemas[schema["$ref"].rpartition("/")[2]])
        below = set().union(*map(names, schema.get("allOf", [])))
        return below | set(schema.get("properties", {}))

    for endpoint, known in PARAMETERS.items():
        content = described["paths"][endpoint.removeprefix("/v1")]["post"]["requestBody"]["content"]
        assert names(content["application/json"]["schema"]) - {"stream", "stream_options", "background"} == known


# The model


def looked_up(answer: Answer, *, own_host: bool) -> tuple[str | None, list[str], FaultProxy]:
    """What was refused, and what was logged, of a model that a server answers about."""
    with fault_proxy() as server:
        server.rule("GET", r"/models/", answer)
        adapter = OpenAIAdapter(OpenAISettings(KEY, base_url=f"{server.url}/v1"))
        adapter._http._sleep = lambda _seconds: None
        adapter._is_openai = own_host
        refused = None
        with capture_logs() as logs:
            try:
                check_model(adapter, "ft:gpt/5", log=structlog.get_logger())
            except BatchInputError as error:
                refused = str(error)
        adapter.close()
        return refused, [entry["event"] for entry in logs], server


def test_a_model_that_is_served_passes() -> None:
    refused, logs, server = looked_up(Answer(200, b'{"id":"ft:gpt/5"}'), own_host=True)
    assert (refused, logs, [call.path for call in server.calls("GET", ".*")]) == (None, [], ["/v1/models/ft%3Agpt%2F5"])


MISSING = Answer(404, b'{"error":{"code":"model_not_found","message":"The model does not exist"}}')


@pytest.mark.parametrize(("answer", "own_host"), [(MISSING, False), (MISSING, True), (Answer(404), True)])
def test_a_model_that_is_not_served_is_refused(answer: Answer, own_host: bool) -> None:
    refused, logs, _ = looked_up(answer, own_host=own_host)
    assert refused is not None
    assert "does not serve the model 'ft:gpt/5' to this connection (404" in refused
    assert refused.endswith(
        "Nothing was uploaded or billed. A retry would find the same: correct the model's name, or choose a connection "
        "that serves it."
    )
    assert logs == []


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (Answer(403), "AccessRefusedError"),  # a key that may run batches, and not look
        (Answer(500), "UnavailableError"),
    ],
)
def test_what_cannot_be_told_of_a_model_is_logged_and_passes(answer: Answer, name: str) -> None:
    refused, logs, _ = looked_up(answer, own_host=False)
    assert (refused, logs) == (None, [f"Whether OpenAI serves ft:gpt/5 could not be told beforehand: {name}"])


def test_a_server_that_does_not_know_the_call_is_no_news() -> None:
    assert looked_up(Answer(404), own_host=False)[:2] == (None, [])


@pytest.mark.parametrize(
    ("text", "sent"), [("On {{ ds }}: {text}", "{ ds }"), ("{{params.a | upper}}", "{params.a | upper}")]
)
def test_what_looks_like_a_template_in_a_prompt_is_warned_of(text: str, sent: str) -> None:
    with capture_logs() as logs:
        check_texts(RequestTemplate("{text}", system=text), log=structlog.get_logger())
    [told] = logs
    assert (
        told["log_level"],
        f"which goes to the model as {sent}: Airflow does not render prompts" in told["event"],
    ) == ("warning", True)


def test_braces_of_json_in_a_prompt_are_no_template() -> None:
    with capture_logs() as logs:
        check_texts(RequestTemplate('Answer {{"a": {{"b": 1}}}} for {text}'), log=structlog.get_logger())
    assert logs == []


def test_at_azure_lines_name_deployments_that_cannot_be_asked_for(azure: Adapter) -> None:
    check_model(azure, "my-deployment", log=structlog.get_logger())


# The output


@pytest.mark.parametrize("where", ["local", "memory"])
def test_an_output_that_can_be_written_is_left_as_it_was(where: str, tmp_path: Path) -> None:
    output = Folder(tmp_path / "out" if where == "local" else UPath(f"memory://{uuid.uuid4().hex}/out"))
    output.put("manifest.json", b"{}")
    check_output(output, log=structlog.get_logger())
    assert (output.get("_llmbatch.probe"), output.get("manifest.json")) == (None, b"{}")


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BatchInputError) as refused:
        check_output(Folder(tmp_path / "out"), log=structlog.get_logger())
    assert str(refused.value) == (
        f"The output {tmp_path}/out cannot be written (FileExistsError: [Errno 17] File exists: '{tmp_path}/out'). "
        "Nothing was uploaded or billed. Give the task the right to it, or choose another output."
    )


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (PermissionError("403"), BatchInputError),
        (FileNotFoundError("no such bucket"), BatchInputError),
        (OSError(errno.EROFS, "read-only"), BatchInputError),
        (TimeoutError("slow"), StorageError),
        (OSError("Cannot connect to host"), StorageError),  # aiohttp's words under s3fs and gcsfs
        (RuntimeError("SlowDown"), StorageError),
    ],
)
def test_only_what_somebody_must_mend_is_held_against_the_output(
    cause: Exception, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_self: Folder, _name: str, _content: bytes) -> None:
        raise StorageError("not written") from cause

    monkeypatch.setattr(Folder, "put", refused)
    with pytest.raises(LLMBatchError) as failed:
        check_output(Folder(tmp_path), log=structlog.get_logger())
    assert type(failed.value) is kind


def test_an_output_in_which_nothing_can_be_deleted_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(_self: Folder, _name: str) -> None:
        raise StorageError("kept for seven years")

    monkeypatch.setattr(Folder, "delete", kept)
    with capture_logs() as logs:
        check_output(Folder(tmp_path), log=structlog.get_logger())
    assert [entry["event"] for entry in logs] == [
        f"{tmp_path} can be written, but nothing in it deleted, so the stage will stay there: kept for seven years"
    ]


# Room


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which places were looked at; each has 1,000 bytes left."""
    looked_at: list[str] = []

    def usage(place: Path) -> SimpleNamespace:
        looked_at.append(str(place))
        return SimpleNamespace(free=1_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return looked_at


def source(folder: Path, size: int) -> FileSource:
    (folder / "in.jsonl").write_bytes(b"x" * size)
    return FileSource(folder / "in.jsonl", "in.jsonl")


def test_a_disk_without_room_for_the_stage_is_told_of(tmp_path: Path, disks: list[str]) -> None:
    output = Folder(tmp_path / "out" / "2026-11-24")
    check_space(output, [source(tmp_path, 500)], largest_part=100)
    with pytest.raises(BatchInputError) as refused:
        check_space(output, [source(tmp_path, 501)], largest_part=100)
    assert str(refused.value) == (
        f"The input has 501 bytes, for which {output.uri()} needs 1,002 free bytes at least, and it has 1,000. Nothing "
        "was uploaded or billed. Make room there, or choose another place: output= says where."
    )
    assert disks == [str(tmp_path)] * 2


def test_an_output_in_an_object_store_needs_room_for_a_part_at_a_time(tmp_path: Path, disks: list[str]) -> None:
    output = Folder(UPath(f"memory://{uuid.uuid4().hex}"))
    check_space(output, [source(tmp_path, 5_000)], largest_part=500)
    with pytest.raises(BatchInputError, match="TMPDIR says where such files go"):
        check_space(output, [source(tmp_path, 5_000)], largest_part=501)
    assert len(disks) == 2


def test_the_size_of_objects_counts_and_what_has_none_passes(tmp_path: Path, disks: list[str]) -> None:
    bucket = UPath(f"memory://{uuid.uuid4().hex}")
    Folder(bucket).put("in.jsonl", b"x" * 501)
    with pytest.raises(BatchInputError, match="501 bytes"):
        check_space(Folder(tmp_path), [FileSource(bucket / "in.jsonl", "memory://in.jsonl")], largest_part=100)
    check_space(Folder(tmp_path), [FileSource(bucket / "gone.jsonl", "memory://gone.jsonl")], largest_part=100)
    check_space(Folder(tmp_path), largest_part=100)
    assert len(disks) == 3
