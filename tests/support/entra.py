"""A real OAuth server on loopback in the place of Entra ID: an npm package, behind a private authority's certificate.

with entra_server(modules, folder) as entra:
    entra.know("client-1", secret="s3cret")
    ...
    assert [r["status"] for r in entra.requests("client-1")] == [200]
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trustme

from support.fault_proxy import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.fault_proxy import FaultProxy

TENANT = "tenant-1"


@dataclass
class EntraServer:
    """``ca_bundle`` is the authority that signed its certificate; ``token_lifetime`` is in seconds."""

    authority_host: str
    ca_bundle: str
    _known: Path
    _requests: Path
    _state: dict[str, Any] = field(default_factory=lambda: {"lifetime": 3600, "outage": None, "clients": {}})

    def know(self, client_id: str, **proof: str) -> None:
        """From now on a client proves itself by ``secret``, ``assertion`` or the holder's key of a ``certificate``."""
        self._state["clients"][client_id] = proof
        self.write()

    def revoke(self, client_id: str) -> None:
        del self._state["clients"][client_id]
        self.write()

    def set(self, *, lifetime: int = 3600, outage: int | None = None) -> None:
        self._state |= {"lifetime": lifetime, "outage": outage}
        self.write()

    def write(self) -> None:
        part = self._known.with_suffix(".part")
        part.write_text(json.dumps(self._state))
        part.replace(self._known)

    def requests(self, client_id: str) -> list[dict[str, Any]]:
        """What a client asked for, and the token that it got: ``client``, ``scope``, ``status``, ``token``."""
        lines = self._requests.read_text().splitlines() if self._requests.exists() else []
        return [request for line in lines if (request := json.loads(line))["client"] == client_id]

    def tokens(self, client_id: str) -> list[str]:
        return [request["token"] for request in self.requests(client_id) if request["status"] == 200]


def answer_everything(azure: FaultProxy) -> None:
    """Let a server answer every call with something that is a file, a batch and an empty list."""
    for method in ("GET", "POST", "DELETE"):
        azure.rule(method, "", Answer(200, b'{"id": "x-1", "status": "processed", "data": []}'), times=None)


def bearers(azure: FaultProxy) -> list[str]:
    """The token of each call that came."""
    return [request.headers.get("authorization", "").removeprefix("Bearer ") for request in azure.requests]


@contextmanager
def entra_server(modules: Path, folder: Path) -> Iterator[EntraServer]:
    """Run it for the time of a block.

    :param modules: The ``node_modules`` that hold ``oauth2-mock-server``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain, bundle = folder / "key.pem", folder / "chain.pem", folder / "authority.pem"
    certificate.private_key_pem.write_to_path(key)
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    authority.cert_pem.write_to_path(bundle)
    known, requests = folder / "known.json", folder / "requests.jsonl"
    script = __file__.replace("entra.py", "entra_server.mjs")
    command = ["node", script, str(modules), str(key), str(chain), str(known), str(requests)]
    server = EntraServer("", str(bundle), known, requests)
    server.write()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            server.authority_host = f"127.0.0.1:{int(process.stdout.readline())}"
            yield server
        finally:
            process.stdin.close()  # it ends by itself then, and would too if this process died
            process.wait(10)
