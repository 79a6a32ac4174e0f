"""Who ``on_batch_event`` tells, of what, how often, and that it fails nothing."""

from __future__ import annotations

import copy
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG, BaseNotifier
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization
from structlog.testing import capture_logs
from support.fault_proxy import Answer, FaultProxy
from support.smtp import mail_server
from support.task import HAS_STATE_STORE, TaskInstance, connect, context_of
from typing_extensions import override

from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.notifications.batch_event import LLMBatchEvent, LLMBatchNotifier
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import Context
    from support.gated_server import GatedServer

FAST: dict[str, Any] = {"deferrable": False, "min_poll_interval": 0.02, "max_poll_interval": 0.05}
FREE: dict[str, Any] = {"models": {"echo": {"batch": {"input": 0, "output": 0}}}}
SHAPE = {"type": "object", "required": ["x"]}


class Kept(list[LLMBatchEvent]):
    """Tells nobody, and remembers."""

    def __call__(self, context: Context) -> None:
        self.append(context["llmbatch"])  # type: ignore[typeddict-item]


@pytest.fixture
def run(
    tmp_path: Path, proxy: FaultProxy, server: GatedServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LLMBatchRunOperator]:
    """A run of two rows, whose answers the server gives at once, for nothing."""
    connect(monkeypatch, proxy.url, server.api_key, prices=FREE)
    (tmp_path / "in.jsonl").write_text('{"text": "{\\"x\\": 1}"}\n{"text": "secret text"}\n')
    server.let_pass(8)

    def make(**more: Any) -> LLMBatchRunOperator:
        given: dict[str, Any] = {"source": str(tmp_path / "in.jsonl"), "prompt": "{text}", "model": "echo"}
        return LLMBatchRunOperator(**{"task_id": "classify", "output": str(tmp_path / "out"), **given, **FAST, **more})

    return make


def first_try(task: Any, **more: Any) -> tuple[Context, TaskInstance]:
    return context_of(task, TaskInstance(task_id=task.task_id, run_id=str(uuid.uuid4()), **more))


def warnings_of(lines: list[Any]) -> list[str]:
    """Ours, without Airflow's about a task that runs without its runner, and that the model has no price."""
    warnings = [str(line["event"]) for line in lines if line["log_level"] == "warning"]
    others = ("outside of the Task Runner", "cost is not known")
    return [warning for warning in warnings if not any(text in warning for text in others)]


def test_a_run_is_told_once_and_a_clear_that_finds_it_published_tells_nothing(
    run: Callable[..., LLMBatchRunOperator], tmp_path: Path
) -> None:
    kept = Kept()
    context, instance = first_try(run())
    run(on_batch_event=kept).execute(context)
    [event] = kept
    manifest = f"{tmp_path}/out/manifest.json"
    assert (event.event, event.rows, event.outcomes, event.manifest) == ("done", 2, {"succeeded": 2}, manifest)
    assert event.message == f"nightly.classify: 2 of 2 rows answered; $0.00; results: {manifest}"
    assert (event.batch_ids, event.error) == (tuple(batch.id for batch in LLMBatchHook().list_batches()), None)
    assert "secret text" not in repr(event)
    instance.try_number, instance.max_tries = 2, 1
    run(on_batch_event=kept).execute(context)
    assert len(kept) == 1
    instance.try_number, instance.max_tries = 3, 2
    run(on_batch_event=kept, prompt="Mended: {text}").execute(context)
    assert [each.event for each in kept] == ["done", "done"]


def test_rows_without_a_good_answer_are_told_with_their_reasons_whether_or_not_the_task_fails(
    run: Callable[..., LLMBatchRunOperator],
) -> None:
    kept = Kept()
    run(on_batch_event=kept, response_format=SHAPE).execute(first_try(run())[0])
    with pytest.raises(AirflowFailException):
        run(on_batch_event=[kept], response_format=SHAPE, on_failed_rows="fail").execute(first_try(run())[0])
    assert [(each.event, type(each.error).__name__) for each in kept] == [
        ("partly_failed", "NoneType"),
        ("partly_failed", "UnansweredRowsError"),
    ]
    assert ": 1 of 2 rows answered, 1 invalid (1 not_json); $0.00; results: " in kept[0].message
    assert kept[1].message.endswith("; the task fails, as on_failed_rows says")


def test_an_outage_is_told_only_when_no_try_is_left(run: Callable[..., LLMBatchRunOperator], proxy: FaultProxy) -> None:
    proxy.rule("POST", "/files$", Answer(503, b"{}"), times=None)
    kept = Kept()
    context, instance = first_try(run(), max_tries=1)
    for told in ([], ["failed"], ["failed"]):
        with pytest.raises(UnavailableError):
            run(on_batch_event=kept).execute(context)
        assert [event.event for event in kept] == told
        instance.try_number += 1
    assert "answered 503. That is an outage on its side." in kept[0].message


def test_bad_input_is_told_as_the_task_fails(run: Callable[..., LLMBatchRunOperator]) -> None:
    kept = Kept()
    task = run(on_batch_event=kept, prompt="{headline}")
    with pytest.raises(AirflowFailException):
        task.execute(first_try(task, max_tries=3)[0])
    assert [event.event for event in kept] == ["failed"]
    assert kept[0].message.startswith("nightly.classify: Line 1 of ")


def test_a_notifier_that_fails_takes_nothing_away_and_the_next_one_is_told(
    run: Callable[..., LLMBatchRunOperator],
) -> None:
    def broken(context: Context) -> None:
        raise AirflowFailException(f"no such channel: {context['llmbatch'].event}")  # type: ignore[typeddict-item]

    kept = Kept()
    with capture_logs() as lines:
        returned = run(on_batch_event=[broken, kept]).execute(first_try(run())[0])
    assert (returned["rows"], [event.event for event in kept]) == (2, ["done"])
    assert warnings_of(lines) == [
        "broken failed to tell that this is done; the task ends as it would have, and what was published stays"
    ]


def test_a_ledger_that_cannot_be_read_or_written_tells_it_anyway(run: Callable[..., LLMBatchRunOperator]) -> None:
    if not HAS_STATE_STORE:
        pytest.skip("Airflow keeps state for tasks from 3.3 on")
    kept = Kept()
    context, _ = first_try(run())
    store = context["task_state_store"]
    get, set_ = store.get, store.set
    store.get = lambda key: 1 / 0 if key == "told" else get(key)
    store.set = lambda key, value, **more: 1 / 0 if key == "told" else set_(key, value, **more)
    with capture_logs() as lines:
        run(on_batch_event=kept).execute(context)
    assert [event.event for event in kept] == ["done"]
    assert [warning.partition(":")[0] for warning in warnings_of(lines)] == [
        "Whether on_batch_event was told before is not known, so it is told",
        "A later try may tell on_batch_event the same again",
    ]


def test_airflows_own_notifiers_work_as_they_are_with_the_message_in_their_templates(
    run: Callable[..., LLMBatchRunOperator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notifier = SmtpNotifier(
        to="data@example.com",
        from_email="airflow@example.com",
        subject="{{ llmbatch.event }}: {{ ti.task_id }}",
        html_content="{{ llmbatch.message }}",
    )
    with mail_server() as mails:
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": mails.port}
        connection["extra"] = {"disable_tls": True, "disable_ssl": True}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        for number in range(2):
            task = run(on_batch_event=notifier, output=f"{tmp_path}/{number}")
            task.execute(first_try(task)[0])
    assert [mail["subject"] for mail in mails.mails] == ["done: classify"] * 2
    assert [mail.get_payload()[0].get_payload(decode=True).decode().strip() for mail in mails.mails] == [  # type: ignore[union-attr]
        f"nightly.classify: 2 of 2 rows answered; $0.00; results: {tmp_path}/{number}/manifest.json"
        for number in range(2)
    ]
    assert notifier.subject == "{{ llmbatch.event }}: {{ ti.task_id }}"  # a copy is rendered


class Own(LLMBatchNotifier):
    """Somebody's own notifier of some events."""

    told: list[str] = []  # noqa: RUF012 - of all copies

    @override
    def notify_event(self, event: LLMBatchEvent, context: Context) -> None:
        self.told.append(f"{context['ti'].task_id} {event.event}")


def test_a_notifier_may_be_told_of_some_events_only(run: Callable[..., LLMBatchRunOperator]) -> None:
    good, bad, all_ = Kept(), Kept(), Kept()

    def broken(context: Context) -> None:
        raise ValueError(context)

    task = run(
        on_batch_event=[
            LLMBatchNotifier([broken, good], events=["done"]),
            LLMBatchNotifier(bad, events=["failed", "deadline"]),
            LLMBatchNotifier(all_),
            Own(events={"done"}),
        ]
    )
    task.execute(first_try(task)[0])
    assert [len(good), len(bad), len(all_), Own.told] == [1, 0, 1, ["classify done"]]
    with pytest.raises(
        ValueError, match="takes a list of done, partly_failed, over_budget, deadline, failed, and not x"
    ):
        LLMBatchNotifier(good, events=["x"])  # type: ignore[list-item]


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_batch_is_told_at_its_end_by_who_made_it_and_by_who_waits_for_it(
    deferrable: bool, server: GatedServer, proxy: FaultProxy
) -> None:
    del proxy
    lines = [
        {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
        for n in range(2)
    ]
    for line in lines:
        line["body"]["messages"].append({"role": "user", "content": "hi"})  # type: ignore[index]
    file = LLMBatchHook().create_file("".join(json.dumps(line) + "\n" for line in lines).encode())
    kept = Kept()
    created = LLMBatchCreateBatchOperator(task_id="make", input_file_id=file.id, on_batch_event=kept, wait=False)
    context, instance = first_try(created)
    batch_id = created.execute(context)
    assert kept == []
    instance.try_number = 2
    server.let_pass(2)
    waiting = LLMBatchCreateBatchOperator(task_id="make", input_file_id=file.id, on_batch_event=kept, **FAST)
    assert waiting.execute(context) == batch_id
    [event] = kept
    assert (event.event, event.message) == ("done", f"nightly.make: 2 of 2 requests answered; {batch_id}")
    instance.try_number = 3
    waiting.execute(context)
    assert len(kept) == (1 if HAS_STATE_STORE else 2)
    sensed = Kept()
    sensor = LLMBatchSensor(task_id="wait", batch_id=batch_id, deferrable=deferrable, on_batch_event=sensed)
    sensor.execute(first_try(sensor)[0])
    assert [event.message for event in sensed] == [f"nightly.wait: 2 of 2 requests answered; {batch_id}"]


def test_a_refused_batch_is_told_as_failed_and_a_skipped_sensor_tells_too(
    proxy: FaultProxy, server: GatedServer
) -> None:
    del server
    body = json.dumps({"id": "batch_9", "status": "failed", "errors": {"data": [{"code": "bad", "message": "no"}]}})
    proxy.rule("GET", "/batches/batch_9$", Answer(200, body.encode()), times=None)
    kept = Kept()
    sensor = LLMBatchSensor(task_id="wait", batch_id="batch_9", deferrable=True, soft_fail=True, on_batch_event=kept)
    with pytest.raises(AirflowSkipException):
        sensor.execute(first_try(sensor)[0])
    assert [(event.event, event.batch_ids) for event in kept] == [("failed", ("batch_9",))]
    assert kept[0].message.startswith("nightly.wait: OpenAI refused batch_9 before running it")


def test_what_cannot_be_called_is_refused_while_the_dag_is_read() -> None:
    with pytest.raises(TypeError, match="takes a notifier, a function of the context, or a list of them, and not str"):
        LLMBatchCreateBatchOperator(task_id="t", input_file_id="f", on_batch_event=["slack"])  # type: ignore[list-item]


class Secretive(BaseNotifier):
    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token


def test_operators_with_a_notifier_are_copied_and_serialized_without_what_it_holds() -> None:
    def dag() -> DAG:
        notifier = [Secretive("hunter2"), LLMBatchNotifier(Secretive("hunter2"), events=["done"])]
        given: dict[str, Any] = {"output": "/out", "prompt": "{x}", "on_batch_event": notifier}
        with DAG("d", schedule=None, default_args={"on_batch_event": Secretive("hunter2")}) as dag:
            LLMBatchRunOperator(task_id="one", source="/in.csv", **given)
            LLMBatchRunOperator.partial(task_id="mapped", **given).expand(source=["/a.csv", "/b.csv"])
        return dag

    first, second = (json.dumps(DagSerialization.to_dict(dag()), default=str, sort_keys=True) for _ in range(2))
    assert first == second  # else each reading of the file would make another version of the DAG
    assert "hunter2" not in first
    task = dag().get_task("one")
    assert [type(each).__name__ for each in copy.deepcopy(task).on_batch_event] == ["Secretive", "LLMBatchNotifier"]
