"""What every provider's adapter offers: the verbs of OpenAI's files and batches, synchronous and streaming.

An adapter takes binary streams and ids, never URIs, and knows nothing of Airflow. It is safe to use from several
threads. It maps the provider's words and errors to ``models`` and ``errors``, retries what is safe to repeat, and never
repeats the call that creates a batch: only ``core.submit`` may decide that, after looking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from airflow_provider_llmbatch.models import BATCH_ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
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
    :param package_pairs: How many of the pairs the package needs.
    :param metadata_problem: What is wrong with a pair that is short enough, if the provider takes not every text.
    """

    max_requests: int
    max_file_bytes: int
    endpoints: frozenset[str] = BATCH_ENDPOINTS
    max_metadata_pairs: int = 16
    max_metadata_key_chars: int = 64
    max_metadata_value_chars: int = 512
    package_pairs: int = 1
    metadata_problem: Callable[[str, str], str | None] | None = None


class LineCheck(Protocol):
    """What a provider asks of the lines of one input beyond OpenAI's rules; made anew for each input.

    The text of a ``ValueError`` completes "Line 17 of reviews.jsonl …".
    """

    def own_id(self, line: bytes) -> str | None:
        """The id of a line in the provider's own format, which OpenAI's rules do not concern; ``None`` for any other.

        :raises ValueError: It is in that format, and cannot be sent.
        """

    def uploaded_bytes(self, line: bytes) -> int:
        """How long the line is as it is uploaded, its line end included.

        :raises ValueError: The provider cannot do what it asks for.
        """


class Adapter(ABC):
    """One provider behind one connection."""

    provider: ClassVar[str]
    """Short name for logs and models, such as ``openai``."""

    title: ClassVar[str]
    """The provider's name as its users write it, for messages."""

    limits: ClassVar[Limits]

    worst_case_hours: ClassVar[float]
    """How long a healthy batch may take at the provider; a wait without a deadline of its own allows an hour more."""

    names_unexecuted: ClassVar[bool] = True
    """Whether the result files also name the requests that were never run, in a batch that was cancelled or expired."""

    verifies_downloads: ClassVar[bool] = False
    """Whether ``file_content`` itself raises when other or fewer bytes arrive than there are."""

    stores_as_sent: ClassVar[bool] = True
    """Whether a file is stored byte for byte as it was uploaded, so that its size tells it from another."""

    @property
    def price_list(self) -> str | None:
        """Whose published prices hold, in genai-prices' words or as the URL of an API; ``None`` for nobody's."""
        return None

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

    def line_check(self) -> LineCheck | None:
        """What to ask of the lines of an input besides OpenAI's rules, before anything is uploaded."""
        return None

    def input_ids(self, file_id: str) -> Iterator[bytes]:
        """Stream an input file in blocks of lines that hold at least each request's ``custom_id``."""
        return self.file_content(file_id)

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

    def list_batches_with(self, name: str, value: str) -> Iterator[Batch]:
        """The batches whose metadata hold a pair, and perhaps others: all of them, where the provider cannot filter."""
        del name, value
        return self.list_batches()

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
