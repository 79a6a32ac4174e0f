"""What becomes of a batch when the task that waits for it is killed: ``docs/failures.md`` has a row for each test.

Each test has a run, a connection and a server of its own. All runs begin at once and wait side by side, since most of
an Airflow's time is spent on waking up.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest
from support.airflow_deployment import airflow_deployment
from support.fault_proxy import Delay, Hang, fault_proxy
from support.gated_server import gated_server
from support.waiting_run import CONSOLE, Wait, begin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.airflow_deployment import Component
    from support.fault_proxy import FaultProxy
    from support.gated_server import GatedServer

SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": "16",
    # Until a dead worker's task is given up: no less, since on a busy machine the living stop for half a minute.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__ON_KILL_TIMEOUT": "120",  # on a busy machine a triggerer's first question takes its time
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # how soon a worker learns that its task was marked or cleared
}

deferred = pytest.mark.parametrize("wait", ["deferred"], indirect=True)
on_worker = pytest.mark.parametrize("wait", ["on_worker"], indirect=True)
deferred_or_on_worker = pytest.mark.parametrize("wait", ["deferred", "on_worker"], indirect=True)
mapped = pytest.mark.parametrize("wait", ["mapped"], indirect=True)
run_deferred = pytest.mark.parametrize("wait", ["run_deferred"], indirect=True)
run_uploading = pytest.mark.parametrize("wait", ["run_uploading"], indirect=True)
run_deferred_or_on_worker = pytest.mark.parametrize("wait", ["run_deferred", "run_on_worker"], indirect=True)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, Wait]]:
    """What each of the tests that were chosen acts on, by the test's id."""
    dags = {test.nodeid: test.callspec.params["wait"] for test in request.session.items if test.path == request.path}
    home = tmp_path_factory.mktemp("airflow")
    with ExitStack() as stack:
        airflow = stack.enter_context(airflow_deployment(home, request.path.parent / "dags", SETTINGS))
        servers = {test: stack.enter_context(gated_server(tmp_path_factory.mktemp("server"))) for test in dags}
        proxies = {
            test: stack.enter_context(endless_second_upload(servers[test]))
            for test, dag_id in dags.items()
            if dag_id == "run_uploading"
        }
        begun = {
            test: begin(airflow, servers[test], dag_id, f"server_{number}", through=proxies.get(test))
            for number, (test, dag_id) in enumerate(dags.items())
        }
        for dag_id in set(dags.values()):
            airflow.unpause(dag_id)
        for test, wait in begun.items():
            if "::test_a_worker_that_dies" in test:  # now, since it takes Airflow a minute to find out
                kill_worker(wait)
        yield begun


@contextmanager
def endless_second_upload(server: GatedServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as proxy:
        proxy.rule("POST", "/files$", Delay(0))
        proxy.rule("POST", "/files$", Hang(), times=None)
        yield proxy


@pytest.fixture
def wait(begun: dict[str, Wait], request: pytest.FixtureRequest) -> Wait:
    """The run, as soon as its task waits: a look at the batch was logged."""
    wait = begun[request.node.nodeid]
    if wait.run.dag_id == "mapped":
        for index in (0, 1):
            wait.is_told("0/1 done", map_index=index)
    else:
        wait.has_begun()
    return wait


def process_of(wait: Wait) -> psutil.Process:
    """The process of the running task; its parent is the worker."""
    return psutil.Process(wait.run.task("wait")["pid"])


def kill_worker(wait: Wait) -> None:
    wait.is_told("0/1 done")
    task = process_of(wait)
    for process in (task.parent(), task):
        process.kill()


def scheduler_of(wait: Wait) -> Component:
    [scheduler] = [each for each in wait.airflow.components if each.pid == os.getsid(process_of(wait).pid)]
    return scheduler


def other_triggerer(wait: Wait, than: Component) -> None:
    """There is one that runs, besides the one given."""
    triggerers = [each for each in wait.airflow.components if each.name == "triggerer"]
    if not any(each.process.poll() is None for each in triggerers if each is not than):
        wait.airflow.start_triggerer()


def is_taken_over(wait: Wait, than: Component) -> None:
    task = wait.run.wait_for_task(
        "wait", lambda task: task["triggerer_job"] and wait.airflow.triggerer_of(task) is not than
    )
    assert (task["state"], task["try_number"]) == ("deferred", 1)
    wait.has_begun(times=2)


@deferred_or_on_worker
@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_the_task_cancels_the_batch(wait: Wait, state: str) -> None:
    batch = wait.batch()
    wait.run.mark("wait", state)
    wait.is_cancelled(batch.id)
    wait.is_told(f"The task is {state}, so {batch.id} was cancelled.")
    assert (wait.run.wait_for_end(), wait.run.task("wait")["try_number"], len(wait.batches())) == (state, 1, 1)


@deferred
def test_marking_the_run_cancels_the_batch(wait: Wait) -> None:
    batch = wait.batch()
    wait.run.mark_run("failed")
    wait.is_cancelled(batch.id)
    wait.is_told(f"The task is failed, so {batch.id} was cancelled.")
    assert len(wait.batches()) == 1


@deferred_or_on_worker
def test_clearing_the_task_leaves_the_batch_to_the_next_try(wait: Wait) -> None:
    batch = wait.batch()
    wait.run.clear("wait")
    wait.is_told(f"{batch.id} goes on: the task is ")
    wait.goes_on(batch_id=batch.id)


@mapped
def test_marking_a_mapped_task_cancels_its_own_batch_only(wait: Wait) -> None:
    batches = [wait.run.xcom("wait", "batch_id", map_index) for map_index in (0, 1)]
    wait.run.mark("wait", "failed", 1)
    wait.is_cancelled(batches[1])
    wait.is_told(f"The task is failed, so {batches[1]} was cancelled.", map_index=1)
    assert (wait.run.wait_for_end(), wait.run.task("wait", 0)["state"]) == ("failed", "success")
    assert {batch.id: batch.status for batch in wait.batches()} == dict(
        zip(batches, ("completed", "cancelled"), strict=True)
    )


@pytest.mark.parametrize(
    ("wait", "state"), [("sensor_deferred", "failed"), ("sensor_on_worker", "success")], indirect=["wait"]
)
def test_marking_a_sensor_cancels_nothing(wait: Wait, state: str) -> None:
    process = process_of(wait) if wait.run.dag_id == "sensor_on_worker" else None
    wait.run.mark("wait", state)
    if process:
        wait.airflow.wait("the end of the task", lambda: not process.is_running())
    else:
        wait.is_told("trigger completed")
    assert wait.batch().status == "in_progress"
    wait.server.let_pass(1)
    wait.airflow.wait("the end of the batch", lambda: wait.batch().status == "completed")


@on_worker
@pytest.mark.parametrize("whom", ["worker", "task"])
def test_sigterm_leaves_the_batch_to_the_next_try(wait: Wait, whom: str) -> None:
    batch = wait.batch()
    task = process_of(wait)
    (task.parent() if whom == "worker" else task).terminate()
    wait.is_told(f"The task was killed. {batch.id} goes on: the task is running")
    wait.goes_on(batch_id=batch.id)


@mapped
def test_each_mapped_task_links_to_its_own_batch_while_it_is_deferred(wait: Wait) -> None:
    batches = [wait.run.xcom("wait", "batch_id", map_index) for map_index in (0, 1)]
    assert [batch.id for batch in wait.batches()] == sorted(batches)
    links = [wait.run.links("wait", map_index) for map_index in (0, 1)]
    assert links == [{"LLM batch console": CONSOLE + batch_id} for batch_id in batches]
    assert [wait.run.task("wait", map_index)["state"] for map_index in (0, 1)] == ["deferred", "deferred"]


@deferred
def test_a_triggerer_that_stalled_and_goes_on_after_another_took_over_cancels_nothing(wait: Wait) -> None:
    batch = wait.batch()
    stalled = wait.airflow.triggerer_of(wait.run.task("wait"))
    stalled.send(signal.SIGSTOP)
    other_triggerer(wait, than=stalled)
    is_taken_over(wait, than=stalled)
    stalled.send(signal.SIGCONT)
    wait.is_told(f"{batch.id} goes on: the task is deferred")
    wait.ends_well(batch_id=batch.id, tries=1)


@deferred
def test_a_triggerer_that_is_stopped_leaves_the_batch_to_another(wait: Wait) -> None:
    batch = wait.batch()
    stopped = wait.airflow.triggerer_of(wait.run.task("wait"))
    stopped.process.terminate()
    other_triggerer(wait, than=stopped)
    is_taken_over(wait, than=stopped)
    wait.airflow.wait("the triggerer's end", lambda: stopped.process.poll() is not None)
    wait.ends_well(batch_id=batch.id, tries=1)


@on_worker
def test_a_worker_that_dies_leaves_the_batch_to_the_next_try(wait: Wait) -> None:
    batch = wait.batch()  # the worker was killed when everything began
    assert "The task was killed" not in str(wait.run.log("wait"))
    wait.goes_on(batch_id=batch.id)


@run_deferred_or_on_worker
def test_marking_the_task_of_a_run_cancels_all_its_batches(wait: Wait) -> None:
    first, second = (batch.id for batch in wait.batches())
    wait.run.mark("wait", "failed")
    for batch_id in (first, second):
        wait.is_cancelled(batch_id)
    wait.is_told("The task is failed, so ")
    assert (wait.run.wait_for_end(), wait.run.task("wait")["try_number"], len(wait.batches())) == ("failed", 1, 2)


@run_uploading
def test_marking_the_task_of_a_run_in_a_long_upload_cancels_what_it_submitted(wait: Wait) -> None:
    batch = wait.batch()
    wait.run.mark("wait", "failed")
    wait.is_cancelled(batch.id)
    wait.is_told(f"The task is being killed while it is at work. The task is failed, so {batch.id} was cancelled")
    assert (wait.run.wait_for_end(), wait.run.task("wait")["try_number"], len(wait.batches())) == ("failed", 1, 1)


@run_deferred_or_on_worker
def test_clearing_the_task_of_a_run_leaves_its_batches_to_the_next_try(wait: Wait) -> None:
    batch_ids = [batch.id for batch in wait.batches()]
    wait.run.clear("wait")
    wait.is_told(" go on: the task is ")
    wait.is_told("0/2 done", try_number=2)
    wait.publishes(batch_ids=batch_ids, tries=2)


@on_worker
def test_a_scheduler_that_is_stopped_lets_its_tasks_wait_on(wait: Wait) -> None:
    batch = wait.batch()
    # From now on a worker's end is told to nobody: a task that is cleared begins anew when another scheduler looks for
    # orphans, every five minutes. So what is cleared on a worker comes before this.
    scheduler = scheduler_of(wait)
    scheduler.process.terminate()
    wait.airflow.wait("the scheduler to stop", lambda: "waiting for running tasks" in scheduler.tail())
    wait.airflow.start_scheduler()
    wait.ends_well(batch_id=batch.id, tries=1)


@on_worker
def test_a_shutdown_of_scheduler_and_workers_leaves_the_batch_to_the_next_try(wait: Wait) -> None:
    batch = wait.batch()
    scheduler = scheduler_of(wait)
    scheduler.send(signal.SIGTERM)
    wait.is_told(f"The task was killed. {batch.id} goes on: the task is running")
    others = [each for each in wait.airflow.components if each.name == "scheduler" and each is not scheduler]
    if not any(other.members() for other in others):
        wait.airflow.start_scheduler()
    wait.goes_on(batch_id=batch.id)


@run_deferred
def test_triggerers_that_stall_or_die_leave_the_batches_of_a_run_to_another(wait: Wait) -> None:
    batch_ids = [batch.id for batch in wait.batches()]
    stalled = wait.airflow.triggerer_of(wait.run.task("wait"))
    stalled.send(signal.SIGSTOP)
    other_triggerer(wait, than=stalled)
    is_taken_over(wait, than=stalled)
    stalled.send(signal.SIGCONT)
    wait.is_told(" go on: the task is deferred")
    killed = wait.airflow.triggerer_of(wait.run.task("wait"))
    killed.kill()
    other_triggerer(wait, than=killed)
    is_taken_over(wait, than=killed)
    wait.publishes(batch_ids=batch_ids, tries=1)


@deferred
def test_a_deleted_task_is_made_anew_and_waits_on(wait: Wait) -> None:
    batch = wait.batch()
    with pytest.raises(AssertionError, match=r"409 .* cannot be deleted in running state"):
        wait.run.delete()
    first = wait.run.task("wait")["id"]
    wait.run.delete_task("wait")
    wait.is_told("was created by an earlier try: waiting for it, nothing is paid again")
    assert wait.run.task("wait")["id"] != first
    wait.ends_well(batch_id=batch.id, tries=1)


@pytest.mark.parametrize("wait", ["deleted"], indirect=True)
def test_deleting_the_dag_of_a_deferred_task_cancels_the_batch(wait: Wait) -> None:
    batch = wait.batch()
    # The last test: a scheduler that was looking at the DAG ends with an ObjectDeletedError (Airflow 3.3.2).
    wait.airflow.call("DELETE", "/api/v2/dags/deleted")
    wait.is_cancelled(batch.id)
    assert len(wait.batches()) == 1
