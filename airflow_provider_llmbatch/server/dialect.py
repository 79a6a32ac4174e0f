"""What servers of one provider do and those of another do not; how they say it is the faces' business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_DAY: Final = 86_400


@dataclass(frozen=True)
class Dialect:
    """The rules of a provider.

    :param max_requests: Of a batch, and texts of an embeddings batch over all its requests.
    :param input_lifetime: Seconds, of an input file whose upload names none; ``None``: it stays.
    :param shortest_lifetime: Seconds that an upload, or a batch for its results, may name.
    :param files_staying: Input files without an expiry that there may be.
    :param files_expiring: Input files with one that there may be.
    :param batches_expire: Whether a batch ends when its window does.
    :param lines_have_ids: Whether a result line has an id of its own.
    :param error_file_always: Whether a batch that ran has an error file even if it is empty.
    :param urls_may_be_bare: Whether a line's url may lack ``/v1``.
    :param bom_error: Code and message of a batch whose input begins with a byte order mark, where those mislead.
    """

    max_requests: int = 50_000
    input_lifetime: int | None = 30 * _DAY
    shortest_lifetime: int = 3_600
    files_staying: int | None = None
    files_expiring: int | None = None
    batches_expire: bool = True
    lines_have_ids: bool = True
    error_file_always: bool = False
    urls_may_be_bare: bool = False
    bom_error: tuple[str, str] | None = None

    def full_endpoint(self, url: str) -> str:
        """The endpoint that a line's url means."""
        return f"/v1{url}" if self.urls_may_be_bare and not url.startswith("/v1/") else url


OPENAI: Final = Dialect()
"""``POST /batches`` and ``POST /files`` of OpenAI's OpenAPI description 2.3.0."""

_NO_DEPLOYMENT_WORDS: Final = (
    "The Azure OpenAI model deployment name specified in the model property of the input file wasn't found. Please "
    "ensure this name points to a valid Azure OpenAI model deployment."
)
NO_DEPLOYMENT: Final = ("model_not_found", _NO_DEPLOYMENT_WORDS)
"""Code and message of a batch for a deployment that is not there."""

AZURE: Final = Dialect(
    max_requests=100_000,
    input_lifetime=None,
    shortest_lifetime=14 * _DAY,
    files_staying=500,
    files_expiring=10_000,
    batches_expire=False,
    lines_have_ids=False,
    error_file_always=True,
    urls_may_be_bare=True,
    bom_error=NO_DEPLOYMENT,
)
"""Microsoft's guide to Azure OpenAI batch deployments (2026-03-19), and its quotas page (mid 2026)."""

VERTEX: Final = Dialect(max_requests=200_000, input_lifetime=None)
"""The guide "Batch inference with Gemini" (2026), for the batches that stand behind Vertex AI's jobs."""
