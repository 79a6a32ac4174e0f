from __future__ import annotations

import json
import os
import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from airflow.sdk import Connection
from support.entra import TENANT, EntraServer, entra_server
from support.fault_proxy import FaultProxy, fault_proxy

from airflow_provider_llmbatch.hooks.azure import azure_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.adapters.azure import AzureAdapter

SECRET = "s3cret-of-the-application"


@pytest.fixture(scope="session")
def entra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EntraServer]:
    modules = Path(os.environ.get("LLMBATCH_TEST_OAUTH_MODULES", "nowhere"))
    if not (modules / "oauth2-mock-server").is_dir() or not shutil.which("node"):
        assert os.environ.get("CI") != "true", "node and the npm package oauth2-mock-server must be there in CI"
        pytest.skip("the npm package oauth2-mock-server is not installed; make test installs it where there is npm")
    with entra_server(modules, tmp_path_factory.mktemp("entra")) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet_environment(entra: EntraServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    entra.set()


@pytest.fixture
def azure() -> Iterator[FaultProxy]:
    """Azure OpenAI, as far as an answer to everything goes."""
    with fault_proxy() as proxy:
        yield proxy


@pytest.fixture
def client_id(entra: EntraServer) -> str:
    """An application of the test's own, so that no token of another test counts."""
    name = f"app-{uuid.uuid4()}"
    entra.know(name, secret=SECRET)
    return name


class OpenAdapter(Protocol):
    def __call__(self, *, host: str = ..., looking: bool = ..., **extra: object) -> AzureAdapter: ...


@pytest.fixture
def connection_to(entra: EntraServer, azure: FaultProxy) -> Any:
    """Make a connection to ``azure`` whose tokens come from ``entra``."""

    def made(host: str | None = None, **extra: object) -> Connection:
        given = {"authority_host": entra.authority_host, "ca_bundle": entra.ca_bundle, "tenant_id": TENANT, **extra}
        extra_text = json.dumps({name: value for name, value in given.items() if value is not None})
        return Connection(conn_id="azure", conn_type="llmbatch_azure", host=host or azure.url, extra=extra_text)

    return made


@pytest.fixture
def open_adapter(connection_to: Any) -> Iterator[OpenAdapter]:
    """Make the adapter of such a connection; it does not sleep, and is closed after the test."""
    with ExitStack() as stack:

        def opened(*, host: str | None = None, looking: bool = False, **extra: object) -> AzureAdapter:
            adapter = azure_adapter(connection_to(host, **extra), looking=looking)
            adapter._http._sleep = lambda _: None
            stack.callback(adapter.close)
            return adapter

        yield opened
