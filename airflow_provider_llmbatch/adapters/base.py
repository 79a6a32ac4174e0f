"""What every provider's adapter offers: the verbs of OpenAI's files and batches, synchronous and streaming.

An adapter takes binary streams and ids, never URIs, and knows nothing of Airflow. It is safe to use from several
threads. It maps the provider's words and errors to ``models`` and ``errors``, retries what is safe to repeat, and never
repeats the call that creates a batch: only ``core.submit`` may decide that, after looking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from airflow_provider_llmbatch.models import BATCH_ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from airflow_provider_llmbatch.models import Batch, File


@dataclass(frozen=True)
class Limits:
    """What a provider accepts in one batch.

    :param max_requests: Lines of one input file.
    :param max_file_bytes: Bytes of one input file.
    :param endpoints: What its lines may ask for.
    :param max_metadata_pairs: Metadata of one batch; one pair is the package's own key.
    :param max_metadata_key_chars: Characters of a metadata key.
    :param max_metadata_value_chars: Characters of a metadata value.
    """

    max_requests: int
    max_file_bytes: int
    endpoints: frozenset[str] = BATCH_ENDPOINTS
    max_metadata_pairs: int = 16
    max_metadata_key_chars: int = 64
    max_metadata_value_chars: int = 512


class Adapter(ABC):
    """One provider behind one connection."""

    provider: ClassVar[str]
    """Short name for logs and models, such as ``openai``."""

    title: ClassVar[str]
    """The provider's name as its users write it, for messages."""

    limits: ClassVar[Limits]

    worst_case_hours: ClassVar[float]
    """How long a healthy batch may take at the provider; a wait without a deadline of its own allows an hour more."""

    @abstractmethod
    def create_file(
        self, stream: BinaryIO, *, filename: str, purpose: str = "batch", expires_after: int | None = None
    ) -> File:
        """Upload a stream from its current position to its end, without holding it in memory.

        :param stream: Read in blocks; if it can seek, a broken upload starts over by itself.
        :param filename: The name at the provider; OpenAI wants it to end in ``.jsonl`` for batches.
        :param expires_after: Seconds until the provider deletes the file; the provider's own default if ``None``.
        """

    @abstractmethod
    def retrieve_file(self, file_id: str) -> File:
        """Look a file up; ``NotFoundError`` if it is not there."""

    @abstractmethod
    def list_files(self, *, purpose: str | None = None, limit: int | None = None) -> Iterator[File]:
        """Page through the files, newest first where the provider sorts; ``limit`` bounds the whole listing."""

    @abstractmethod
    def delete_file(self, file_id: str) -> None:
        """Delete a file; ``NotFoundError`` if it is not there."""

    @abstractmethod
    def file_content(self, file_id: str) -> Iterator[bytes]:
        """Stream a file's bytes in blocks; a broken download goes on where it ended."""

    @abstractmethod
    def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> Batch:
        """Create a batch with exactly one attempt that may reach the provider.

        :raises LostAnswerError: The batch may or may not exist.
        :raises LLMBatchError: Any other error says that no batch was created.
        """

    @abstractmethod
    def retrieve_batch(self, batch_id: str) -> Batch:
        """Look a batch up; ``NotFoundError`` if it is not there."""

    @abstractmethod
    def list_batches(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Page through the batches, newest first where the provider sorts; ``limit`` bounds the whole listing."""

    @abstractmethod
    def cancel_batch(self, batch_id: str) -> Batch:
        """Ask for a batch to be cancelled; a batch that has ended already is returned as it is."""

    @abstractmethod
    def console_url(self, batch_id: str) -> str | None:
        """Where a person can see the batch in a browser, if the provider has such a page."""

    @abstractmethod
    def ping(self) -> str:
        """Make one cheap call that needs the key; say in a sentence what was found."""

    def known_parameters(self, endpoint: str) -> frozenset[str] | None:
        """The names that the body of a request may have; ``None`` where nobody can tell."""
        del endpoint
        return None

    def check_model(self, model: str) -> None:  # noqa: B027 - most providers cannot be asked
        """Ask whether a model can be used, where the provider can be asked.

        :raises BatchInputError: It certainly cannot.
        :raises LLMBatchError: It cannot be told.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the sockets back. The adapter must not be used afterwards."""
