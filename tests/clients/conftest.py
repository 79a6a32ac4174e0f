from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from support.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-1234"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server"), api_key=KEY) as server:
        yield server


@pytest.fixture
def client_environment(server: RunningServer) -> dict[str, str]:
    """What a client needs to find the server, without what makes this process import the package."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_"))}
    return {
        **inherited,
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": server.api_key,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


@pytest.fixture(scope="session")
def requests() -> bytes:
    """One request that is answered, and one that is refused by itself."""
    bodies: dict[str, dict[str, object]] = {
        "good": {"model": "echo", "messages": [{"role": "user", "content": "hello"}]},
        "bad": {"model": "echo", "messages": []},
    }
    lines = (
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in bodies.items()
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
