"""The wait for several batches at once, driven by a clock that the test turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_llmbatch.core import joint_wait
from airflow_provider_llmbatch.core.joint_wait import Due, Ended, JointVerdict, Round, watch_together
from airflow_provider_llmbatch.core.polling import GiveUp, Look, OutOfTime, PollPolicy
from airflow_provider_llmbatch.errors import AccessRefusedError, NotFoundError, RateLimitError, UnavailableError
from airflow_provider_llmbatch.models import Batch, BatchStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_700_000_000
POLICY = PollPolicy(deadline=NOW + 1_000.0, min_interval=10.0, max_interval=100.0)


def batch(batch_id: str, status: BatchStatus = "in_progress", *, age: int = 0) -> Batch:
    return Batch(id=batch_id, status=status, created_at=NOW - age)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_wait.random, "uniform", lambda _low, _high: 0.0)


def waited(
    *rounds: Mapping[str, Look],
    ids: tuple[str, ...] = ("a", "b"),
    policy: PollPolicy = POLICY,
    resubmit_at: float | None = None,
    any_end: bool = False,
) -> tuple[list[tuple[float, str]], JointVerdict | None]:
    """Each pause with the batches that were looked at after it, and the verdict if there was one."""
    now = float(NOW)
    asked: list[tuple[float, str]] = []
    waiting = watch_together(ids, policy, resubmit_at=resubmit_at, any_end=any_end, clock=lambda: now)
    try:
        turn: Round = next(waiting)
        for looks in rounds:
            asked.append((turn.seconds, "".join(turn.batch_ids)))
            now += turn.seconds
            turn = waiting.send({batch_id: looks[batch_id] for batch_id in turn.batch_ids})
    except StopIteration as end:
        verdict: JointVerdict = end.value
        return asked, verdict
    return [*asked, (turn.seconds, "".join(turn.batch_ids))], None


def test_all_are_looked_at_at_once_and_those_that_ended_no_more() -> None:
    assert waited(
        {"a": batch("a"), "b": batch("b")},
        {"a": batch("a", "completed"), "b": batch("b")},
        {"b": batch("b", "failed")},
    ) == ([(0.0, "ab"), (10.0, "ab"), (10.0, "b")], Ended())


def test_the_first_end_is_told_if_another_batch_may_take_its_place() -> None:
    rounds = [{"a": batch("a"), "b": batch("b")}, {"a": batch("a"), "b": batch("b", "expired")}]
    assert waited(*rounds, any_end=True) == ([(0.0, "ab"), (10.0, "ab")], Ended())


def test_the_youngest_batch_says_when_to_look_again() -> None:
    rounds = [{"a": batch("a", age=400), "b": batch("b", age=1_400)}]
    assert waited(*rounds) == ([(0.0, "ab"), (20.0, "ab")], None)


def test_who_asks_for_patience_gets_it_for_all_batches() -> None:
    rounds = [{"a": RateLimitError("Slow down.", retry_after=70.0), "b": batch("b")}]
    assert waited(*rounds) == ([(0.0, "ab"), (70.0, "ab")], None)


def test_in_an_outage_pauses_grow() -> None:
    down = UnavailableError("Down.")
    assert waited(*[{"a": down, "b": down}] * 3) == ([(0.0, "ab"), (10.0, "ab"), (20.0, "ab"), (40.0, "ab")], None)


def test_a_refusal_of_one_batch_is_believed_at_the_third_time_and_ends_the_wait() -> None:
    gone = NotFoundError("Not there.")
    rounds = [{"a": batch("a"), "b": gone}] * 3
    assert waited(*rounds) == ([(0.0, "ab"), (10.0, "ab"), (10.0, "ab")], GiveUp(gone))


def test_a_refusal_between_looks_that_succeed_is_not_believed() -> None:
    refused, seen = AccessRefusedError("No."), batch("b")
    rounds = [{"a": batch("a"), "b": look} for look in (refused, refused, seen, refused, refused)]
    assert waited(*rounds)[1] is None


def test_the_deadline_ends_the_wait_after_a_last_look() -> None:
    policy = PollPolicy(NOW + 15.0, 10.0, 100.0)
    rounds = [{"a": batch("a"), "b": batch("b")}] * 3
    assert waited(*rounds, policy=policy) == ([(0.0, "ab"), (10.0, "ab"), (5.0, "ab")], OutOfTime())
    last = {"a": batch("a", "completed"), "b": batch("b", "completed")}
    assert waited(*rounds[:2], last, policy=policy)[1] == Ended()


def test_what_waits_for_room_is_due_at_its_moment() -> None:
    rounds = [{"a": batch("a"), "b": batch("b")}] * 2
    assert waited(*rounds, resubmit_at=NOW + 7.0) == ([(0.0, "ab"), (7.0, "ab")], Due())


def test_the_end_of_all_batches_is_told_before_the_moment_of_what_waits_for_room() -> None:
    rounds = [{"a": batch("a"), "b": batch("b", "completed")}, {"a": batch("a", "completed")}]
    assert waited(*rounds, resubmit_at=NOW + 70.0) == ([(0.0, "ab"), (10.0, "a")], Ended())


def test_with_no_batch_at_all_the_moment_is_slept_for() -> None:
    assert waited({}, ids=(), resubmit_at=NOW + 700.0) == ([(700.0, "")], Due())
    assert waited({}, ids=(), resubmit_at=NOW + 2_000.0) == ([(1_000.0, "")], OutOfTime())
