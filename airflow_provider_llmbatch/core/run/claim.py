"""One output, one task: of a DAG's run, no two tasks may publish in the same place, or one replaces the other's set.

Tasks that are mapped over their sources, with one output for all of them, would. The set of an earlier run of the DAG
may be replaced: that is what publishing does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import override

from airflow_provider_llmbatch.core.run.job import STAGES
from airflow_provider_llmbatch.core.run.manifest import MANIFEST, read_manifest
from airflow_provider_llmbatch.errors import BatchInputError, ResultSetError

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.storage import Folder

_ADVICE: Final = 'Give each task an output of its own, such as output="…/{{ ti.map_index }}" for mapped ones'


class _Holder(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    task_id: str
    map_index: int = -1

    @override
    def __str__(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


def claim_output(job: Job) -> None:
    """Take the output for this task, before anything is staged there.

    :raises BatchInputError: Another task of the same DAG run has it.
    """
    other = _other_holder(job)
    if other is not None:
        holder, where = other
        raise BatchInputError(
            f"The output {job.output.uri()} is that of {holder} of the same DAG run already, and each would replace "
            f"what the other one publishes. Nothing was uploaded or billed. {_ADVICE}. If {holder} is not to publish "
            f"there any more, delete {where}."
        )
    folder, name = _place(job)
    folder.put(name, _own(job).model_dump_json().encode())


def check_claim(job: Job) -> None:
    """Look once more before publishing: two tasks that began in the same moment may both have taken it.

    :raises ResultSetError: Another task of the same DAG run has it.
    """
    other = _other_holder(job)
    if other is not None:
        raise ResultSetError(
            f"The output {job.output.uri()} is that of {other[0]} of the same DAG run as well, and each would replace "
            "what the other one publishes. Nothing was published; what was answered is billed, and stays in the "
            f"stage. {_ADVICE}, and clear this one: it then takes its answers from the provider, as long as that keeps "
            "them, and pays for none twice."
        )


def leave_output(job: Job) -> None:
    """The manifest tells from now on whose the output is."""
    folder, name = _place(job)
    folder.delete(name)


def _other_holder(job: Job) -> tuple[_Holder, str] | None:
    """Which other task has the output, and what says so."""
    folder, name = _place(job)
    manifest = read_manifest(job.output)
    if manifest is not None:
        run, slot = manifest.run, job.slot
        if (run.namespace, run.dag_id, run.run_id) == (slot.namespace, slot.dag_id, slot.run_id):
            holder = _Holder(task_id=run.task_id, map_index=run.map_index)
            if holder != _own(job):
                return holder, job.output.uri(MANIFEST)
    content = folder.get(name)
    try:
        claim = _Holder.model_validate_json(content) if content is not None else None
    except ValidationError:
        return None  # half a claim tells nothing; the manifest will
    return (claim, folder.uri(name)) if claim is not None and claim != _own(job) else None


def _place(job: Job) -> tuple[Folder, str]:
    of_run = replace(job.slot, task_id="", map_index=-1, part=0)
    return job.output.child(STAGES, private=True), f"{of_run.key('output')}.json"


def _own(job: Job) -> _Holder:
    return _Holder(task_id=job.slot.task_id, map_index=job.slot.map_index)
