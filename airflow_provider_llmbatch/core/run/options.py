"""What a run is told beside its input and its output: limits, attempts, deadlines, and what a person's clear means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

OnFailedRows: TypeAlias = Literal["succeed", "fail"] | int | float
"""``succeed``, ``fail`` if a single row lacks a good answer, or how many rows (a whole number) or which share of them
(a fraction below 1) may lack one."""

OnClear: TypeAlias = Literal["resume", "restart"]
OnChangedInput: TypeAlias = Literal["restart", "fail"]
Cleanup: TypeAlias = Literal["inputs", "all", "none"]
Format: TypeAlias = Literal["jsonl", "parquet"]

_DAY: Final = 86_400.0


@dataclass(frozen=True)
class RunOptions:
    """Times are in seconds.

    :param max_rows_per_batch: Fewer rows in one batch than the provider allows.
    :param max_bytes_per_batch: Fewer bytes of one input file than the provider allows.
    :param max_cost_usd: What the whole run may cost in US dollars, all attempts, tries and clears together; without
        limit by default.
    :param max_tokens_per_batch: Estimated tokens of one batch; unlimited by default.
    :param max_parallel_batches: How many batches of the run may be under way at the same time.
    :param max_attempts: How often a row may be submitted until it has an answer, the first time included.
    :param on_failed_rows: Whether rows without a good answer fail the task, after everything was published.
    :param on_clear: What a clear with the same input means: go on at no cost, or pay for new answers.
    :param on_changed_input: What a changed input means: begin anew (batches of the old one are cancelled), or fail.
    :param completion_window: ``24h`` is the only one at OpenAI.
    :param metadata: Up to 15 pairs of text for each batch.
    :param cleanup: What is deleted at the provider after success: input files, result files too, or nothing.
    :param keep_stage: Whether the run's own copy of its input stays after success.
    :param deadline: How long after its creation each batch may end; the provider's worst case and an hour by default.
    :param run_deadline: How long after the run's start batches may still be created; without limit by default.
    :param queue_deadline: How long to wait for a full queue while none of the run's batches ends.
    :param cancel_on_deadline: Whether a batch that has not ended by its deadline is cancelled.
    :param format: Of the result set.
    :param unique_key: Whether two rows with the same key are an error.
    :param file_expires_after: Seconds until the provider deletes an input file; its own default if ``None``.
    :raises ValueError: An option that cannot hold; the message names it.
    """

    max_rows_per_batch: int | None = None
    max_bytes_per_batch: int | None = None
    max_tokens_per_batch: int | None = None
    max_parallel_batches: int = 10
    max_attempts: int = 3
    on_failed_rows: OnFailedRows = "succeed"
    on_clear: OnClear = "resume"
    on_changed_input: OnChangedInput = "restart"
    completion_window: str = "24h"
    metadata: Mapping[str, str] = field(default_factory=dict)
    cleanup: Cleanup = "inputs"
    keep_stage: bool = False
    deadline: float | None = None
    run_deadline: float | None = None
    queue_deadline: float = _DAY
    cancel_on_deadline: bool = True
    format: Format = "jsonl"
    unique_key: bool = False
    file_expires_after: int | None = None
    max_cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        for name in ("max_rows_per_batch", "max_bytes_per_batch", "max_tokens_per_batch"):
            value = getattr(self, name)
            if value is not None:
                _check_count(name, value)
        for name in ("max_parallel_batches", "max_attempts"):
            _check_count(name, getattr(self, name))
        for name in ("deadline", "run_deadline", "queue_deadline"):
            seconds = getattr(self, name)
            if seconds is not None and seconds < 0:
                raise ValueError(f"{name} must not be negative, and is {seconds:g} s")
        for name, kind in (
            ("on_clear", OnClear),
            ("on_changed_input", OnChangedInput),
            ("cleanup", Cleanup),
            ("format", Format),
        ):
            known = get_args(kind)
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        _check_threshold(self.on_failed_rows)
        if self.max_cost_usd is not None and not self.max_cost_usd >= 0:
            raise ValueError(f"max_cost_usd must be an amount of US dollars, not {self.max_cost_usd}")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")


def _check_threshold(value: object) -> None:
    if value in ("succeed", "fail"):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < 0 or (isinstance(value, float) and value >= 1):  # type: ignore[operator] # is a number
        raise ValueError(
            'on_failed_rows must be "succeed", "fail", a number of rows such as 10, or a share of them such as 0.01, '
            f"not {value!r}"
        )
