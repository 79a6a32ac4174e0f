"""What can go wrong, drawn by what the reader should do next.

::

    LLMBatchError
    ├── BatchInputError              mend the input: nothing was uploaded or billed
    ├── BudgetExceededError          raise the limit, or ask for less: the work costs more than was allowed
    ├── RequestRefusedError          mend the request: the provider refused it
    │   └── NotFoundError            the file or batch is not there (any more)
    ├── ConnectionSettingsError      mend the connection: it cannot be used as it stands
    ├── AccessRefusedError           mend the connection: the provider refused the key
    ├── QuotaExceededError           pay the provider's bill, or delete what fills its storage
    ├── EnqueuedTokenLimitError      wait: the model's queue is full until other batches have ended
    ├── UnavailableError             wait and retry: the provider or the way to it is down
    │   ├── RateLimitError           … it says when
    │   ├── UnexpectedAnswerError    … something else than the API answered
    │   └── BrokenTransferError      … an upload or download ended early
    ├── LostAnswerError              a batch may exist: look before creating again
    ├── LedgerError                  the record of what was paid for is unreadable: nothing was done
    ├── StageGoneError               what was paid for can no longer be joined to its rows
    ├── UnansweredRowsError          read the published set: too many of its rows have no good answer
    ├── ResultSetError               a stage or a manifest is not what was written: nothing was published
    ├── StorageError                 wait and retry: a file of the source, the stage or the output is out of reach
    └── BatchNotCompletedError       read the partial results
        ├── BatchFailedError         the provider refused the input before running it
        ├── BatchExpiredError        the completion window passed
        ├── BatchCancelledError      somebody cancelled it
        └── DeadlineExceededError    our own deadline passed

Every message says what happened, whether anything was billed, and what a retry will do.
"""

from __future__ import annotations

from typing import ClassVar


class LLMBatchError(Exception):
    """Base of every error of this package.

    :param status_code: HTTP status of the provider's answer, where there was one.
    :param code: The provider's own error code, such as ``invalid_api_key``.
    :param request_id: The provider's id of the call, to show to its support.
    """

    retriable: ClassVar[bool] = False
    """Whether the same call may succeed later without anybody changing anything."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.request_id = request_id


class BatchInputError(LLMBatchError):
    """Raised when the input breaks a rule that the provider would enforce; nothing was uploaded or billed."""


class BudgetExceededError(LLMBatchError):
    """Raised when a run would cost, or with another attempt would have cost, more than its ``max_cost_usd``; what was
    not submitted is not billed."""


class RequestRefusedError(LLMBatchError):
    """Raised when the provider refuses a call for what it asks (400, 409, 413, 422 and the like)."""


class NotFoundError(RequestRefusedError):
    """Raised when a file or batch does not exist, or no longer does (404)."""


class ConnectionSettingsError(LLMBatchError):
    """Raised when a connection lacks something or holds a value that cannot work."""


class AccessRefusedError(LLMBatchError):
    """Raised when the provider refuses the key or the key's rights (401, 403)."""


class QuotaExceededError(LLMBatchError):
    """Raised when the account is out of money (402, or the code ``insufficient_quota``) or Azure's resource is full of
    files (``quotaExceeded``): waiting does not help."""


class EnqueuedTokenLimitError(LLMBatchError):
    """Raised when more tokens are queued for a model than the account may queue: good input, at a bad time.

    Nothing was billed. ``LLMBatchCreateBatchOperator`` waits, and submits the same file again.

    :param limit: How many tokens may be queued, where the provider says so.
    :param enqueued: How many are, where it says so.
    :param retry_after: Seconds after which the provider asks to be called again, where it said so.
    """

    retriable = True

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        limit: int | None = None,
        enqueued: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, code=code, request_id=request_id)
        self.limit = limit
        self.enqueued = enqueued
        self.retry_after = retry_after


class UnavailableError(LLMBatchError):
    """Raised when the provider, or the way to it, is down: no connection, a reset, a time-out, a 5xx.

    :param retry_after: Seconds after which the provider asks to be called again, where it said so.
    :param reached: Whether the provider may have acted on the call. ``False`` only if it certainly did not.
    """

    retriable = True

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        reached: bool = True,
    ) -> None:
        super().__init__(message, status_code=status_code, code=code, request_id=request_id)
        self.retry_after = retry_after
        self.reached = reached


class RateLimitError(UnavailableError):
    """Raised when the provider asks to slow down (429) for longer than a call may wait."""


class UnexpectedAnswerError(UnavailableError):
    """Raised when something else than the API answered: a proxy's or a log-in page, a body that is no JSON."""


class BrokenTransferError(UnavailableError):
    """Raised when an upload or a download ended early and could not be taken up again."""


class LostAnswerError(LLMBatchError):
    """Raised when the answer to a creation was lost: the batch may exist, so nothing was created again."""

    retriable = True


class LedgerError(LLMBatchError):
    """Raised when the record of what was submitted cannot be read or written: unreadable is not absent."""

    retriable = True


class StageGoneError(LLMBatchError):
    """Raised when a run's own copy of its input is gone while batches made of it were paid for, and nothing else can
    tell which row each answer belongs to."""


class UnansweredRowsError(LLMBatchError):
    """Raised after a result set was published, when more of its rows than ``on_failed_rows`` allows have no good
    answer."""


class ResultSetError(LLMBatchError):
    """Raised when a manifest cannot be read, or outcomes do not add up to the input: nothing was published, and what
    was paid for stays where it is."""


class StorageError(LLMBatchError):
    """Raised when a file of a source, a stage or an output cannot be read or written; nothing is billed for that.

    A retry goes on where this attempt stopped.
    """

    retriable = True


class BatchNotCompletedError(LLMBatchError):
    """Raised when a batch ended, or was given up on, without being completed.

    :param batch_id: The batch, whose partial results may be downloaded; empty where none was created.
    """

    def __init__(self, message: str, *, batch_id: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.batch_id = batch_id


class BatchFailedError(BatchNotCompletedError):
    """Raised when the provider refused the whole batch before running it: nothing was billed; or when it gave the batch
    up, as Vertex AI may: then what was answered before is billed and can be downloaded."""


class BatchExpiredError(BatchNotCompletedError):
    """Raised when the completion window passed; what was answered in time is billed and can be downloaded."""


class BatchCancelledError(BatchNotCompletedError):
    """Raised when the batch was cancelled; what was answered before is billed and can be downloaded."""


class DeadlineExceededError(BatchNotCompletedError):
    """Raised when a batch did not end by the deadline of the task that waits for it."""
