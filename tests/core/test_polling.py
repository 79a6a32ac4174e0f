"""Waiting for a batch, decided by a pure function: no sleeping, no asking, every moment given."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.polling import (
    Done,
    GiveUp,
    Look,
    OutOfTime,
    PollPolicy,
    Verdict,
    Wait,
    decide,
    watch,
)
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    BrokenTransferError,
    ConnectionSettingsError,
    LLMBatchError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)
from airflow_provider_llmbatch.models import TERMINAL_STATUSES, Batch, BatchStatus

NOW = 1_700_000_000.0
POLICY = PollPolicy(deadline=NOW + 90_000, min_interval=10, max_interval=300)
ALL_STATUSES: list[BatchStatus] = [
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
    "unknown",
]
LIVE = sorted(set(ALL_STATUSES) - TERMINAL_STATUSES)


def batch(status: BatchStatus = "in_progress", *, age: float | None = 0) -> Batch:
    return Batch(id="batch_1", status=status, created_at=None if age is None else int(NOW - age))


@pytest.mark.parametrize("status", sorted(TERMINAL_STATUSES))
@pytest.mark.parametrize("late", [-1.0, 0.0, 1_000_000.0])
def test_a_batch_that_ended_is_done_even_after_the_deadline(status: BatchStatus, late: float) -> None:
    ended = batch(status)
    assert decide(ended, POLICY.deadline + late, POLICY, failures=0) == Done(ended)


@pytest.mark.parametrize("status", LIVE)
def test_a_batch_that_lives_is_waited_for_and_no_longer_than_to_the_deadline(status: BatchStatus) -> None:
    assert decide(batch(status), NOW, POLICY, failures=0) == Wait(10)
    assert decide(batch(status), POLICY.deadline - 3, POLICY, failures=0) == Wait(3)
    assert decide(batch(status), POLICY.deadline, POLICY, failures=0) == OutOfTime()


@pytest.mark.parametrize(
    ("age", "seconds"),
    [(0, 10), (200, 10), (400, 20), (4_000, 200), (6_000, 300), (80_000, 300), (None, 10), (-3_600, 10)],
    ids=["new", "young", "older", "old", "at the bound", "very old", "age unknown", "our clock jumped back"],
)
def test_the_pause_is_a_twentieth_of_the_age_between_the_bounds(age: float | None, seconds: float) -> None:
    assert decide(batch(age=age), NOW, POLICY, failures=0) == Wait(seconds)


@pytest.mark.parametrize(("jitter", "seconds"), [(-1.0, 180.0), (0.0, 200.0), (1.0, 220.0)])
def test_jitter_spreads_the_looks_by_a_tenth(jitter: float, seconds: float) -> None:
    decision = decide(batch(age=4_000), NOW, POLICY, failures=0, jitter=jitter)
    assert decision == Wait(pytest.approx(seconds))


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (50, 300), (100_000, 300)]
)
def test_an_outage_is_borne_with_growing_pauses(failures: int, seconds: float) -> None:
    assert decide(UnavailableError("down"), NOW, POLICY, failures=failures) == Wait(seconds)


@pytest.mark.parametrize("kind", [UnavailableError, RateLimitError, UnexpectedAnswerError, BrokenTransferError])
def test_what_may_pass_is_borne_up_to_the_deadline_and_no_longer(kind: type[UnavailableError]) -> None:
    assert decide(kind("down"), POLICY.deadline - 1, POLICY, failures=9_999) == Wait(1)
    assert decide(kind("down"), POLICY.deadline, POLICY, failures=1) == OutOfTime()


@pytest.mark.parametrize("jitter", [-1.0, 0.0, 1.0])
def test_retry_after_is_never_cut_short_but_by_the_deadline(jitter: float) -> None:
    asked = RateLimitError("slow down", retry_after=1_000)
    decision = decide(asked, NOW, POLICY, failures=1, jitter=jitter)
    assert decision == Wait(pytest.approx(1_000 + 100 * abs(jitter)))
    assert decide(asked, POLICY.deadline - 60, POLICY, failures=1, jitter=jitter) == Wait(60)


def test_a_retry_after_shorter_than_our_own_pause_does_not_shorten_it() -> None:
    assert decide(RateLimitError("slow down", retry_after=0.5), NOW, POLICY, failures=3) == Wait(40)


@pytest.mark.parametrize("kind", [AccessRefusedError, NotFoundError])
def test_a_refusal_is_believed_when_it_was_heard_three_times_in_a_row(kind: type[LLMBatchError]) -> None:
    refused = kind("no")
    assert decide(refused, NOW, POLICY, failures=1, refusals=1) == Wait(10)
    assert decide(refused, NOW, POLICY, failures=2, refusals=2) == Wait(20)
    assert decide(refused, NOW, POLICY, failures=3, refusals=3) == GiveUp(refused)


@pytest.mark.parametrize("kind", [ConnectionSettingsError, QuotaExceededError, RequestRefusedError, LLMBatchError])
def test_what_cannot_pass_is_given_up_at_once(kind: type[LLMBatchError]) -> None:
    error = kind("no")
    assert decide(error, NOW, POLICY, failures=1) == GiveUp(error)


def watched(looks: list[Look], *, clock: list[float] | None = None) -> tuple[list[float], Verdict | None]:
    """The pauses that a wait asks for while it sees what is given, and its verdict, if it came to one."""
    moments = iter(clock) if clock else itertools.repeat(NOW)
    waiting = watch(POLICY, clock=lambda: next(moments))
    pauses = [next(waiting).seconds]
    for look in looks:
        try:
            pauses.append(waiting.send(look).seconds)
        except StopIteration as end:
            return pauses, end.value
    return pauses, None


def near(*seconds: float) -> object:
    return pytest.approx(list(seconds), rel=0.11)


def test_a_wait_looks_at_once_and_ends_when_the_batch_does() -> None:
    ended = batch("completed")
    assert watched([ended]) == ([0.0], Done(ended))
    assert watched([batch(), batch(), ended]) == (near(0, 10, 10), Done(ended))


def test_a_look_that_succeeds_ends_an_outage_and_the_next_one_begins_small() -> None:
    down = UnavailableError("down")
    assert watched([down, down, down, batch(), down]) == (near(0, 10, 20, 40, 10, 10), None)


def test_a_refusal_that_passes_is_forgotten() -> None:
    refused, ended = AccessRefusedError("rotated"), batch("completed")
    pauses, verdict = watched([refused, refused, batch(), refused, refused, ended])
    assert (len(pauses), verdict) == (6, Done(ended))


def test_an_outage_before_a_refusal_does_not_make_it_credible() -> None:
    down, refused, ended = UnavailableError("down"), NotFoundError("not yet"), batch("completed")
    assert watched([*[down] * 20, refused, refused, ended])[1] == Done(ended)
    assert watched([*[down] * 20, refused, refused, refused])[1] == GiveUp(refused)


def test_a_clock_that_jumps_back_prolongs_the_wait_and_one_that_jumps_on_ends_it() -> None:
    running = batch()
    pauses, verdict = watched([running] * 4, clock=[NOW + 4_000, NOW - 4_000, NOW + 4_000, POLICY.deadline + 1])
    assert (pauses, verdict) == (near(0, 200, 10, 200), OutOfTime())


# Property: whatever is seen, whenever.

errors = st.one_of(
    st.builds(UnavailableError, st.just("down"), retry_after=st.none() | st.floats(0, 1e9)),
    st.builds(RateLimitError, st.just("slow"), retry_after=st.none() | st.floats(0, 1e9)),
    st.sampled_from([AccessRefusedError("no"), NotFoundError("no"), RequestRefusedError("no"), LLMBatchError("no")]),
)
batches = st.builds(
    Batch, id=st.just("batch_1"), status=st.sampled_from(ALL_STATUSES), created_at=st.none() | st.integers(1, 10**10)
)
policies = st.builds(
    lambda deadline, low, more: PollPolicy(deadline, low, low + more),
    st.floats(0, 1e10),
    st.floats(0.001, 3_600),
    st.floats(0, 86_400),
)


@given(st.one_of(batches, errors), st.floats(0, 1e10), policies, st.integers(1, 10**6), st.floats(-1, 1))
def test_whatever_is_seen_no_wait_is_negative_or_ends_after_the_deadline(
    look: Look, now: float, policy: PollPolicy, failures: int, jitter: float
) -> None:
    decision = decide(look, now, policy, failures=failures, refusals=failures, jitter=jitter)
    if isinstance(look, Batch) and look.is_terminal:
        assert decision == Done(look)
    elif isinstance(decision, Wait):
        assert 0 < decision.seconds <= policy.deadline - now
    elif isinstance(decision, GiveUp):
        assert decision == GiveUp(look)  # type: ignore[arg-type] # only errors are given up for
    else:
        assert (decision, now >= policy.deadline) == (OutOfTime(), True)
