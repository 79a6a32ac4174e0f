"""The durable record of what was intended, asked for and created, so that a second attempt knows what the first one
did.

An intent is written before each call that may cost something. What cannot be read is not absent: it stops the task,
since going on could pay twice. A record is small (under 1 kB), far below the 64 kB of Airflow's task state store.
"""

from __future__ import annotations

from typing import Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator

from airflow_provider_llmbatch.errors import LedgerError


class Store(Protocol):
    """Where records are kept: Airflow's task state store, or anything with these two methods."""

    def get(self, key: str) -> JsonValue:
        """The value of a key, ``None`` if it has none; raises if that cannot be told."""

    def set(self, key: str, value: JsonValue) -> None:
        """Keep a value durably before returning; raises if it was not kept."""


class MemoryStore:
    """Forgets with its process: what an Airflow without task state store leaves. Doubt then goes to the provider."""

    def __init__(self) -> None:
        self._values: dict[str, JsonValue] = {}

    def get(self, key: str) -> JsonValue:
        return self._values.get(key)

    def set(self, key: str, value: JsonValue) -> None:
        self._values[key] = value


class Record(BaseModel):
    """What a ledger keeps; unknown fields are refused, since a later release may mean more by them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # as in ``models``

    schema_version: Literal[1] = 1


class FileRecord(Record):
    """An upload.

    :param sha256: Of the content, in hexadecimal.
    :param file_id: Set once the provider has the file.
    """

    filename: str
    sha256: str
    file_id: str | None = None


class BatchRecord(Record):
    """A submission.

    :param number: Counts the submissions of the same input, from 1.
    :param state: ``intended``: the call that creates the batch may have been made. ``refused``: it was made, and no
        batch came of it. ``created``: ``batch_id`` is set.
    :param intended_at: When the intent was written, in seconds since 1970.
    :param max_tries: Of the task instance; a clear changes it, a retry does not.
    :param queued_since: When the provider's queue was first found full, in seconds since 1970.
    :param queue_refusals: How often it was, since then.
    :param content: What a run's batch is made of, where the input file's id does not tell.
    :param stopped: Why a run cancelled it, written before it did.
    """

    number: int
    key: str
    input_file_id: str
    state: Literal["intended", "refused", "created"]
    intended_at: float
    max_tries: int
    batch_id: str | None = None
    queued_since: float | None = None
    queue_refusals: int | None = None
    content: str | None = None
    stopped: Literal["deadline"] | None = None

    @model_validator(mode="after")
    def _created_has_a_batch(self) -> Self:
        # Taken as it stands, "created" without a batch would count as a refusal, and another batch be made.
        if (self.state == "created") != bool(self.batch_id):
            raise ValueError("the state created and a batch_id belong together")
        return self


RecordT = TypeVar("RecordT", bound=Record)


class Ledger(Generic[RecordT]):
    """One record in a store.

    :param durable: Whether the store outlives the process. If not, an absent record of a second attempt means nothing.
    """

    def __init__(self, store: Store, name: str, record_type: type[RecordT], *, durable: bool) -> None:
        self._store = store
        self._name = name
        self._type: type[RecordT] = record_type
        self.durable = durable

    def read(self) -> RecordT | None:
        """The record, or ``None`` if there is none.

        :raises LedgerError: The store cannot be read, or holds something else.
        """
        try:
            value = self._store.get(self._name)
            return None if value is None else self._type.model_validate(value)
        except ValidationError as error:
            raise LedgerError(
                f"The record {self._name!r} of this task was written by another release, or by something else "
                f"({error.error_count()} fields do not fit). Nothing was submitted, since going on could pay twice. "
                "Delete that key from the task's state if its batch is not wanted any more."
            ) from error
        except Exception as error:  # whatever keeps the store from answering
            raise LedgerError(
                f"The record {self._name!r} of this task could not be read ({type(error).__name__}: {error}). "
                "Nothing was submitted, since going on could pay twice. A retry reads it again."
            ) from error

    def write(self, record: RecordT) -> None:
        """Keep the record.

        :raises LedgerError: It was not kept; what it announced must not be done.
        """
        try:
            self._store.set(self._name, record.model_dump(mode="json", exclude_none=True))
        except Exception as error:  # whatever keeps the store from keeping it
            raise LedgerError(
                f"The record {self._name!r} of this task could not be written ({type(error).__name__}: {error}), so "
                "this attempt stops here. If another attempt has taken its place, that one goes on; else a retry looks "
                "at the provider before it submits anything."
            ) from error
