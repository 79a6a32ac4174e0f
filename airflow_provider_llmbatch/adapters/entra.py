"""Tokens of Entra ID for Azure, through azure-identity, which is imported only when a connection asks for one.

A token is shared by the whole process (``tokens.py``). A credential lives only as long as it takes to get a token:
nothing stays open, and a secret, a certificate or a token file that was replaced counts from the next renewal on.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from typing_extensions import override

from airflow_provider_llmbatch.adapters.http import passwords_of
from airflow_provider_llmbatch.adapters.tokens import SharedTokens, Token
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from azure.core.credentials import TokenCredential

    from airflow_provider_llmbatch.adapters.http import TransportSettings

IdentityKind = Literal["client secret", "certificate", "managed identity", "workload identity", "default chain"]

_LONGEST_QUOTE: Final = 500  # characters of Entra ID's words in a message of ours
# OAuth's words, and Entra's number, for what passes; azure-identity leaves nothing else of a 429.
_PASSING: Final = ("temporarily_unavailable", "server_error", "AADSTS90033")
_KNOWN_AUTHORITIES: Final = frozenset(
    {
        "login.microsoftonline.com",
        "login.microsoftonline.us",
        "login.chinacloudapi.cn",
        "login.partner.microsoftonline.cn",
    }
)


@dataclass(frozen=True)
class Identity:
    """Who asks for tokens.

    :param kind: How it proves itself. ``workload identity`` reads what AKS puts into the environment
        (``AZURE_FEDERATED_TOKEN_FILE``); ``default chain`` is azure-identity's ``DefaultAzureCredential``.
    :param certificate_path: PEM or PKCS12 file with certificate and private key.
    :param authority_host: Where to ask, such as ``login.microsoftonline.us``; azure-identity's default if ``None``.
    """

    kind: IdentityKind
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    certificate_path: str | None = None
    certificate_password: str | None = field(default=None, repr=False)
    authority_host: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(secret for secret in (self.client_secret, self.certificate_password) if secret)

    @override
    def __str__(self) -> str:
        who = [f"client {self.client_id}"] if self.client_id else []
        who += [f"tenant {self.tenant_id}"] if self.tenant_id else []
        return f"{self.kind} ({', '.join(who)})" if who else self.kind


_TOKENS: Final[SharedTokens[Token]] = SharedTokens()


class EntraAuthorization:
    """The header of each attempt.

    :param scope: What the token is for, such as ``https://ai.azure.com/.default``.
    :param clock: Seconds since 1970; replaced in tests only.
    :raises ConnectionSettingsError: azure-identity is not installed.
    """

    def __init__(
        self, identity: Identity, scope: str, transport: TransportSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        _import_azure_identity()
        self._identity = identity
        self._scope = scope
        self._transport = transport
        self._clock = clock

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}

    def refused(self) -> None:
        _TOKENS.forget((self._identity, self._scope))

    @property
    def remedy(self) -> str:
        return f"mend the connection's {self._identity}, or its scope, {self._scope}"

    def _token(self) -> str:
        return _TOKENS.get((self._identity, self._scope), self._fetched, self._clock).value

    def _fetched(self) -> Token:
        try:
            credential = _credential_of(self._identity, self._transport)
        except (ValueError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            return self._asked(credential)
        raise ConnectionSettingsError(
            f"The identity of this connection, {self._identity}, cannot be used ({self._shown(problem)}). Nothing was "
            "sent or billed, and nothing was cancelled. Mend the connection, or what it leads to."
        )

    def _asked(self, credential: TokenCredential) -> Token:
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - an extra

        try:
            found = credential.get_token(self._scope)
        except (AzureError, ValueError, OSError) as error:
            failure: Exception = error
        else:
            return Token(found.token, float(found.expires_on))
        finally:
            getattr(credential, "close", lambda: None)()
        # Outside the except block: the foreign error could carry a secret, so it is not chained.
        raise self._error_of(failure)

    def _error_of(self, failure: Exception) -> LLMBatchError:
        text = self._shown(str(failure))
        told = f"Entra ID gave no token to this connection's {self._identity}: {text}."
        if "CERTIFICATE_VERIFY_FAILED" in str(failure):
            return ConnectionSettingsError(
                f"{told} The certificate that it shows is not trusted. Nothing was sent or billed. Set the "
                "connection's CA bundle to the authority that signed it."
            )
        if _is_outage(failure):
            return UnavailableError(
                f"{told} That is an outage of Entra ID, or of the way to it. Nothing was sent to Azure OpenAI or "
                "billed. A retry may succeed.",
                reached=False,
            )
        return AccessRefusedError(
            f"{told} Nothing was sent to Azure OpenAI or billed, and nothing was cancelled. A retry would be refused "
            "again: mend the identity in the connection, such as a secret that was revoked or has expired."
        )

    def _shown(self, text: str) -> str:
        proxy = self._transport.proxy
        for secret in (*self._identity.secrets, proxy, *passwords_of(proxy)):
            text = text.replace(secret, "***") if secret else text
        return " ".join(text.split())[:_LONGEST_QUOTE].rstrip(".")


def _import_azure_identity() -> None:
    try:
        import azure.identity  # noqa: F401, PLC0415 - an extra
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConnectionSettingsError(
            "This connection has no API key, so it needs a token of Entra ID, and the package azure-identity, which "
            "gets those, is not installed. Nothing was sent. Run pip install 'airflow-provider-llmbatch[azure]' where "
            "the workers and the triggerer run, or give the connection an API key."
        )


def _credential_of(identity: Identity, transport: TransportSettings) -> TokenCredential:
    from azure import identity as azure  # noqa: PLC0415 - an extra

    options: dict[str, Any] = {
        "http_logging_level": logging.DEBUG,  # its forty lines for a token belong into no task log
        "connection_timeout": transport.connect_timeout,
        "read_timeout": transport.timeout,
        "retry_total": 2 if transport.max_attempts > 1 else 0,
    }
    if transport.ca_bundle:
        options["connection_verify"] = transport.ca_bundle
    if transport.proxy:
        # Not for http: a managed identity is asked for on the machine itself.
        options["proxies"] = {"https": transport.proxy}
    if identity.kind == "managed identity":
        return azure.ManagedIdentityCredential(client_id=identity.client_id, **options)
    if identity.authority_host:
        host = identity.authority_host.removeprefix("https://").strip("/")
        options |= {"authority": f"https://{host}", "disable_instance_discovery": host not in _KNOWN_AUTHORITIES}
    tenant, client = identity.tenant_id or "", identity.client_id or ""
    if identity.kind == "client secret":
        return azure.ClientSecretCredential(tenant, client, identity.client_secret or "", **options)
    if identity.kind == "certificate":
        return azure.CertificateCredential(
            tenant, client, identity.certificate_path, password=identity.certificate_password, **options
        )
    if identity.kind == "workload identity":
        return azure.WorkloadIdentityCredential(tenant_id=identity.tenant_id, client_id=identity.client_id, **options)
    return azure.DefaultAzureCredential(**options)


def _is_outage(failure: BaseException) -> bool:
    """Whether the error, or one behind it, tells of the network, of a server in trouble, or of a page in its place.

    azure-identity wraps them all into the same class as a refusal.
    """
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError  # noqa: PLC0415 - an extra
    from msal.exceptions import MsalServiceError  # noqa: PLC0415 - an extra

    outages = (ServiceRequestError, ServiceResponseError, MsalServiceError, json.JSONDecodeError)
    seen: list[BaseException] = []
    while failure not in seen:
        seen.append(failure)
        status = failure.status_code if isinstance(failure, HttpResponseError) else None
        told = any(word in str(failure) for word in _PASSING)
        if told or isinstance(failure, outages) or (status or 0) >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS:
            return True
        failure = failure.__cause__ or failure.__context__ or failure
    return False
