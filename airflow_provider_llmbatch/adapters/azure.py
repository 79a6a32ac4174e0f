"""Azure OpenAI: what differs from OpenAI, and nothing more.

Facts: Microsoft's REST specification 2024-10-21 and 2025-04-01-preview (files, batches), its v1 reference of
2026-03-19, "Getting started with Azure OpenAI batch deployments" of 2026-03-19, and the quotas page of mid 2026. They
contradict each other in places; what is taken here is said where it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from typing_extensions import override

from airflow_provider_llmbatch.adapters.azure_address import Address, address_of
from airflow_provider_llmbatch.adapters.base import Limits
from airflow_provider_llmbatch.adapters.body_parameters import AZURE_PARAMETERS, PARAMETERS
from airflow_provider_llmbatch.adapters.entra import EntraAuthorization, Identity
from airflow_provider_llmbatch.adapters.http import HttpClient, TransportSettings
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings, checked_headers
from airflow_provider_llmbatch.adapters.refusals import FILES_QUOTA
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    ConnectionSettingsError,
    LLMBatchError,
    NotFoundError,
    QuotaExceededError,
    RequestRefusedError,
    UnavailableError,
)
from airflow_provider_llmbatch.models import BATCH_ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from pydantic import JsonValue

    from airflow_provider_llmbatch.models import Batch, File

_DAY: Final = 86_400
_SHORTEST_EXPIRY: Final = 14 * _DAY
_LONGEST_EXPIRY: Final = 30 * _DAY
_MOST_HEADERS: Final = 10  # more are answered with 431 (quotas page)
_CONSOLE_URL: Final = "https://ai.azure.com/"  # no address of a single batch is documented
_FIRST_LOOK: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_DYING: Final = frozenset({"deleting", "deleted"})
_ON_THE_WAY: Final = frozenset({"uploaded", "pending", "running"})
_OLDEST_SHOWN: Final = 5
# An endpoint is required, but the service reads the lines to tell chat from responses; its guide always sends this one.
_CHAT: Final = "/chat/completions"
_BY_CHAT: Final = frozenset({"/v1/chat/completions", "/v1/responses", _CHAT, "/responses"})


@dataclass(frozen=True)
class AzureSettings:
    """What a connection to an Azure OpenAI resource needs.

    :param endpoint: The resource's address, in any shape that ``azure_address`` takes.
    :param api_key: Sent as ``api-key``; ``None``: ``identity`` counts.
    :param identity: Who asks Entra ID for a token.
    :param api_version: A dated one for the classic shape; ``None``: v1, unless the endpoint holds one.
    :param scope: What a token is for; by default as the shape of the endpoint wants it.
    :param batch_endpoint: Sent as ``endpoint`` of every batch, whatever the operator says.
    :param headers: Sent with each call, at most ten; their values count as secrets.
    :param console_url: Where people look at a batch, ``{batch_id}`` in it; the Foundry portal if ``None``.
    :param file_patience: Seconds to wait until Azure has read an input file, before a batch is made of it.
    """

    endpoint: str
    api_key: str | None = field(default=None, repr=False)
    identity: Identity = Identity("default chain")  # noqa: RUF009 - frozen
    api_version: str | None = None
    scope: str | None = None
    batch_endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    console_url: str | None = None
    file_patience: float = 900.0
    transport: TransportSettings = field(default_factory=TransportSettings)


class AzureAdapter(OpenAIAdapter):
    provider: ClassVar[str] = "azure"
    title: ClassVar[str] = "Azure OpenAI"
    limits: ClassVar[Limits] = Limits(
        max_requests=100_000,
        max_file_bytes=200_000_000,
        endpoints=BATCH_ENDPOINTS | {_CHAT, "/responses"},  # as older guides write a line's url
    )
    # Azure never expires a batch: after 24 h it goes on until it is done or cancelled.
    worst_case_hours: ClassVar[float] = 72.0
    _upload_type: ClassVar[str] = "application/json"

    def __init__(self, settings: AzureSettings) -> None:
        if len(settings.headers) > _MOST_HEADERS:
            raise ConnectionSettingsError(
                f"This connection has {len(settings.headers)} headers of its own, and Azure OpenAI takes at most "
                f"{_MOST_HEADERS}. Nothing was sent. Remove some."
            )
        self._azure = settings
        self._address: Address = address_of(settings.endpoint, settings.api_version)
        self._accepts = "key" if settings.api_key else "identity"
        console = settings.console_url or (_CONSOLE_URL if self._address.is_azure else None)
        super().__init__(
            OpenAISettings(
                settings.api_key or "",
                base_url=self._address.base_url,
                headers=settings.headers,
                console_url=console,
                transport=settings.transport,
            )
        )

    @override
    def _client(self, settings: OpenAISettings) -> HttpClient:
        address = self._address
        identity = None if settings.api_key else self._azure.identity
        key = {"api-key": settings.api_key} if settings.api_key else {}
        return HttpClient(
            address.base_url,
            title=self.title if address.is_azure else f"The server at {self._host}",
            headers=checked_headers({**key, **settings.headers}),
            params={"api-version": address.api_version} if address.api_version else None,
            settings=settings.transport,
            authorization=EntraAuthorization(identity, self._azure.scope or address.scope, settings.transport)
            if identity
            else None,
            secrets=(settings.api_key, *settings.headers.values(), *(identity.secrets if identity else ())),
        )

    @override
    def create_file(
        self, stream: BinaryIO, *, filename: str, purpose: str = "batch", expires_after: int | None = None
    ) -> File:
        if expires_after is None and purpose == "batch":
            expires_after = _LONGEST_EXPIRY  # a resource holds 500 inputs without an expiry, and 10,000 with one
        _check_expiry("expires_after", expires_after)
        try:
            return super().create_file(stream, filename=filename, purpose=purpose, expires_after=expires_after)
        except QuotaExceededError as error:
            if error.code != FILES_QUOTA:
                raise
            full = self._explained(error)
        raise full

    @override
    def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> Batch:
        _check_expiry("output_expires_after", output_expires_after)
        batch = super().create_batch(
            input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            output_expires_after=output_expires_after,
        )
        return batch.model_copy(update={"endpoint": endpoint})  # the answer's may be null, or chat's for responses

    @property
    @override
    def price_list(self) -> str | None:
        return "azure"

    @override
    def known_parameters(self, endpoint: str) -> frozenset[str] | None:
        known = PARAMETERS.get(f"/v1{endpoint.removeprefix('/v1')}") if self._address.is_azure else None
        return known and known | AZURE_PARAMETERS

    @override
    def check_model(self, model: str) -> None:
        """Nothing: lines name deployments, and the key to a resource cannot list those."""

    @override
    def _expiry_fields(self, seconds: int) -> dict[str, str]:
        # With a dot in the specification and in the v1 guide's curl; OpenAI's own client sends brackets.
        return {"expires_after.anchor": "created_at", "expires_after.seconds": str(seconds)}

    @override
    def _files_page_size(self) -> int | None:
        return super()._files_page_size() if self._address.is_v1 else None  # the classic list comes in one piece

    @override
    def _spelled(self, endpoint: str) -> str:
        if self._azure.batch_endpoint:
            return self._azure.batch_endpoint
        if endpoint in _BY_CHAT:
            return _CHAT
        return endpoint if self._address.is_v1 else endpoint.removeprefix("/v1")

    @override
    def _until_ready(self, input_file_id: str) -> None:
        """Wait until the file is ``processed``: sooner, Azure refuses to make a batch of it."""
        waited, pause = 0.0, _FIRST_LOOK
        while (status := (file := self.retrieve_file(input_file_id)).status) in _ON_THE_WAY:
            if waited >= self._azure.file_patience:
                raise UnavailableError(
                    f"{self._http.title} has not read the file {input_file_id} after {waited:,.0f} s: it is still "
                    f"{status}. No batch was created, and nothing was billed. A retry waits again for the same file.",
                    reached=False,
                )
            self._http.pause(pause)
            waited, pause = waited + pause, min(pause * 2, _LONGEST_PAUSE)
        if status == "error":
            raise RequestRefusedError(
                f"{self._http.title} could not read the file {input_file_id}: "
                f"{(file.status_details or 'it gave no reason').rstrip('.')}. No batch was created, and nothing was "
                "billed. A retry would be refused again: mend the input, and upload it anew."
            )
        if status in _DYING:
            raise NotFoundError(
                f"The file {input_file_id} is {status} at {self._http.title}. No batch was created, and nothing was "
                "billed. A retry would not find it either: upload it anew."
            )

    @override
    def _file_of(self, content: dict[str, JsonValue], action: str) -> File:
        return super()._file_of(_with_lower_status(content), action)

    @override
    def _batch_of(self, content: dict[str, JsonValue], action: str) -> Batch:
        mended = _with_lower_status(content)
        errors = content.get("errors")
        if isinstance(errors, dict) and "value" in errors:
            mended["errors"] = {"data": errors["value"]}
        if isinstance(endpoint := content.get("endpoint"), str) and endpoint and not endpoint.startswith("/v1/"):
            mended["endpoint"] = f"/v1{endpoint}"
        return super()._batch_of(mended, action)

    def _explained(self, error: QuotaExceededError) -> QuotaExceededError:
        """The same error, with what to delete."""
        try:
            files = sorted(self.list_files(purpose="batch"), key=lambda file: file.created_at or 0)
        except LLMBatchError:
            files = []
        without = sum(file.expires_at is None for file in files)
        oldest = ", ".join(file.id for file in files[:_OLDEST_SHOWN])
        held = f" It holds {len(files):,} batch input files, {without:,} of them without an expiry." if files else ""
        begin = f", beginning with the oldest ({oldest})" if files else ""
        return QuotaExceededError(
            f"{error}{held} Azure OpenAI allows 500 without an expiry and 10,000 with one; this package always sends "
            f"one. Delete input files whose batches have ended{begin}, for example with "
            "LLMBatchDeleteFileOperator(file_id=…).",
            status_code=error.status_code,
            code=error.code,
            request_id=error.request_id,
        )


def _with_lower_status(content: dict[str, JsonValue]) -> dict[str, JsonValue]:
    status = content.get("status")
    return {**content, "status": status.lower() if isinstance(status, str) else status}


def _check_expiry(name: str, seconds: int | None) -> None:
    if seconds is not None and not _SHORTEST_EXPIRY <= seconds <= _LONGEST_EXPIRY:
        raise BatchInputError(
            f"{name} is {seconds:,} s, and Azure OpenAI takes from {_SHORTEST_EXPIRY:,} s (14 days) to "
            f"{_LONGEST_EXPIRY:,} s (30 days). Nothing was uploaded, created or billed."
        )
