"""How google-auth asks for tokens: its transport interface, over httpx."""

from __future__ import annotations

import os
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import httpx

from airflow_provider_llmbatch.adapters.http import check_proxy, passwords_of, ssl_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_llmbatch.adapters.http import TransportSettings

# Where a machine asks for itself: never through a proxy.
_METADATA_HOSTS: Final = ("169.254.169.254", "metadata.google.internal", "metadata")
_METADATA_HOST_VARIABLES: Final = ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP")
_SECRET_FIELDS: Final = frozenset({"assertion", "refresh_token", "client_secret", "subject_token", "actor_token"})
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


@dataclass(frozen=True)
class _Answer:
    """As ``google.auth.transport.Response`` has it."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class TokenCalls:
    """A ``google.auth.transport.Request`` for as long as one token takes; what it saw tells an outage from a refusal.

    It is no subclass, so that google-auth need not be imported to read this module.
    """

    def __init__(self, transport: TransportSettings) -> None:
        check_proxy(transport.proxy)
        self._transport = transport
        hosts = {*_METADATA_HOSTS, *(os.environ.get(name) or "metadata" for name in _METADATA_HOST_VARIABLES)}
        self._client = httpx.Client(
            verify=ssl_context(transport.ca_bundle),
            proxy=transport.proxy,
            mounts={f"all://{host}": None for host in hosts},
            timeout=httpx.Timeout(transport.timeout, connect=transport.connect_timeout),
            follow_redirects=False,
        )
        self._sent: list[str] = [transport.proxy or "", *passwords_of(transport.proxy)]
        self._last_status = 0
        self._unanswered = False
        self.distrusted = False
        """Whether a certificate was not trusted."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Answer:
        from google.auth.exceptions import TransportError  # noqa: PLC0415 - an extra

        self._note(body, headers or {})
        self._unanswered = False
        try:
            response = self._client.request(
                method,
                url,
                content=body,
                headers=dict(headers or {}),
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else min(timeout, self._transport.timeout),
            )
        except httpx.HTTPError as error:
            self._unanswered = True
            self.distrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            failure = f"{httpx.URL(url).host} did not answer ({type(error).__name__}: {error})"
        else:
            self._last_status = response.status_code
            return _Answer(response.status_code, response.headers, response.content)
        raise TransportError(failure)  # type: ignore[no-untyped-call]

    @property
    def met_an_outage(self) -> bool:
        """Whether the last call was not answered, or only with something that passes."""
        status = self._last_status
        return self._unanswered or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING

    @property
    def secrets(self) -> tuple[str, ...]:
        """What was sent, and must stand in no message."""
        return tuple(self._sent)

    def close(self) -> None:
        self._client.close()

    def _note(self, body: bytes | str | None, headers: Mapping[str, str]) -> None:
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body or ""
        self._sent += [value for name, value in parse_qsl(text) if name in _SECRET_FIELDS]
        self._sent += [value.rpartition(" ")[2] for name, value in headers.items() if name.lower() == "authorization"]
