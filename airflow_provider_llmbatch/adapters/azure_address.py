"""The address of an Azure OpenAI resource, from whatever a person pastes: the one place that knows both URL shapes.

Classic: ``https://NAME.openai.azure.com/openai/...?api-version=2024-10-21``, a dated version on every call. v1 (since
August 2025): ``https://NAME.openai.azure.com/openai/v1/...``, without one (API lifecycle page, 2026-03-19). Neither has
a deployment in the path of files or batches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from airflow_provider_llmbatch.errors import ConnectionSettingsError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

CLASSIC_SCOPE: Final = "https://cognitiveservices.azure.com/.default"
V1_SCOPE: Final = "https://ai.azure.com/.default"

_AZURE_HOSTS: Final = (".azure.com", ".azure.us", ".azure.cn", ".cognitive.microsoft.com")
_DATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_V1_VERSIONS: Final = frozenset({"v1", "preview", "latest"})
_PATH: Final = re.compile(r"(?:(?P<prefix>.*)/openai(?P<v1>/v1)?)?", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """Where a resource is called.

    :param base_url: What stands before ``/files`` and ``/batches``.
    :param api_version: Sent in the query of each call, if any.
    :param is_v1: Which of the two shapes it is.
    :param is_azure: Whether the host is Microsoft's, rather than a gateway's or an embedded server's.
    """

    base_url: str
    api_version: str | None
    is_v1: bool
    is_azure: bool

    @property
    def scope(self) -> str:
        """What a token for it is asked for, unless the connection says otherwise."""
        return V1_SCOPE if self.is_v1 else CLASSIC_SCOPE


def address_of(pasted: str, api_version: str | None = None) -> Address:
    """The address that a pasted URL means.

    ``/openai/v1`` at its end makes it v1, a dated version classic; with neither it is v1. Anything else at its end is
    refused, since a guess would call something else.

    :param api_version: From the connection; the query of the URL may hold it instead.
    :raises ConnectionSettingsError: With the shape that the URL should have.
    """
    text = pasted.strip()
    url = urlsplit(text if "://" in text else f"https://{text}")
    host = url.hostname or ""
    is_azure = host.endswith(_AZURE_HOSTS)
    version = _version(url, api_version)
    path = re.sub(r"/+", "/", url.path).rstrip("/")
    shape = _PATH.fullmatch(path)
    if not host or url.scheme not in ("http", "https") or (is_azure and url.scheme == "http"):
        raise _refused(url, "it does not begin with https:// and a host")
    if "/deployments" in path.lower():
        raise _refused(url, "it leads to one deployment, whose name belongs into body.model of each request instead")
    if shape is None or "/openai" in (shape["prefix"] or "").lower():
        raise _refused(url, f"its path {path} ends elsewhere than in /openai or /openai/v1")
    is_dated = bool(version and _DATED.fullmatch(version))
    if version and not is_dated and version not in _V1_VERSIONS:
        raise _refused(url, f"its api-version {version!r} is none")
    if is_dated and shape["v1"]:
        raise _refused(url, f"its path /openai/v1 has no dated api-version, and this one is {version}")
    prefix = shape["prefix"] or ""
    base_url = f"{url.scheme}://{url.netloc}{prefix}/openai{'' if is_dated else '/v1'}"
    return Address(base_url, version, is_v1=not is_dated, is_azure=is_azure)


def _version(url: SplitResult, given: str | None) -> str | None:
    query = {name.lower(): values for name, values in parse_qs(url.query).items()}
    found = {value.strip() for value in (*query.get("api-version", ()), given or "") if value.strip()}
    if len(found) > 1:
        raise _refused(url, f"it has several api-versions, with the connection's own: {', '.join(sorted(found))}")
    return found.pop() if found else None


def _refused(url: SplitResult, problem: str) -> ConnectionSettingsError:
    host = url.netloc.rpartition("@")[2].lower() or "NAME.openai.azure.com"  # what stands before may be a password
    return ConnectionSettingsError(
        f"The endpoint {url.scheme}://{host}{url.path} of this connection is not the address of an Azure OpenAI "
        f"resource: {problem}. Nothing was sent. Give https://{host}/openai/v1, or https://{host} with a dated "
        "api_version such as 2024-10-21."
    )
