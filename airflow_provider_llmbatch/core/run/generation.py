"""Which input a try works on: the one that an earlier try staged, or a new one, and what becomes of the earlier one.

A retry goes on with the stage. A clear reads the source again, into a new stage, and compares. Nothing of a generation
is submitted before its stage is whole and the index says so; so a process that dies before that leaves nothing paid.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.run.budget import spent_on
from airflow_provider_llmbatch.core.run.claim import claim_output
from airflow_provider_llmbatch.core.run.manifest import read_manifest
from airflow_provider_llmbatch.core.run.old_batches import cancel_old, count_submitted
from airflow_provider_llmbatch.core.run.parts import state_of
from airflow_provider_llmbatch.core.run.records import IndexRecord
from airflow_provider_llmbatch.core.run.stage import SplitLimits, Stage, write_stage
from airflow_provider_llmbatch.errors import BatchInputError, StageGoneError

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.manifest import Manifest

_ROWS: Final = "rows"
_NOT_RECORDED: Final = -1
_FINGERPRINT: Final = 12  # characters of a hash: enough to see whether two inputs are the same


def input_of(job: Job) -> tuple[IndexRecord, Stage | None]:
    """The index, and its stage, which may be gone only after the result set was published.

    :raises BatchInputError: The source cannot be used, or it changed and must not have.
    :raises StageGoneError: Answers that were paid for cannot be joined to their rows any more.
    """
    return _Choice(job).made()


@dataclass(frozen=True)
class _Choice:
    job: Job

    def made(self) -> tuple[IndexRecord, Stage | None]:
        index = self.job.index.read()
        if index is None:
            return self._begin()
        if index.state == "staging":
            return self._stage(index.replaces, index)
        if index.max_tries != self.job.attempt.max_tries:
            return self._stage(index)
        if index.state == "published":
            if self._manifest_of(index):
                return index, Stage.open(self.job.stage_folder(index.stage_id))
            index = index.model_copy(update={"state": "running", "publish_id": None})
        if self._changes(index):
            return self._stage(index)
        stage = Stage.open(self.job.stage_folder(index.stage_id))
        return (index, stage) if stage else self._staged_anew(index)

    def _begin(self) -> tuple[IndexRecord, Stage | None]:
        """The first try, or one that has no record of the earlier ones."""
        manifest = read_manifest(self.job.output)
        if manifest is not None and manifest.run.key == self.job.key:
            self.job.log.info(f"No record of this run is left but its result set {manifest.publish_id}")
            return self._stage(_index_of(manifest))
        if self.job.attempt.try_number == 1:
            return self._stage(None)
        self.job.log.info("No record of the earlier tries is left: the provider is asked before anything is created")
        generation, stage_id = self._left_behind()
        left = {"generation": generation, "stage_id": stage_id, "forgotten_at": self.job.timing.clock()}
        return self._stage(None, self._staging(None).model_copy(update=left))

    def _left_behind(self) -> tuple[int, str]:
        """The generation of a stage that outlived its record: each begins in another try."""
        for generation in range(self.job.attempt.try_number, 0, -1):
            for stage_id in self.job.stage_ids(generation):
                if Stage.open(self.job.stage_folder(stage_id)):
                    return generation, stage_id
        return 1, "1"

    def _staging(self, old: IndexRecord | None, before: IndexRecord | None = None) -> IndexRecord:
        """:param before: What an earlier try was staging when it died."""
        if before is not None:
            generation = before.generation
        else:
            generation = max(self.job.attempt.try_number, old.generation + 1) if old else 1
        return IndexRecord(
            state="staging",
            generation=generation,
            # Never where an earlier try wrote: it may have been taken for dead, and write on.
            stage_id=str(generation) if before is None else self.job.stage_id_of_try(generation),
            max_tries=self.job.attempt.max_tries,
            parameters_sha256=self.job.source.parameters_sha256,
            model=self.job.source.model,
            started_at=self.job.timing.clock(),
            forgotten_at=before.forgotten_at if before else None,
            replaces=old,
        )

    def _stage(self, old: IndexRecord | None, before: IndexRecord | None = None) -> tuple[IndexRecord, Stage | None]:
        """Read the source into a stage of its own, then see what that means for the generation before it."""
        index = self._staging(old, before)
        self.job.index.write(index)
        if before is not None:
            self.job.forget_stage(before.stage_id)
        stage = self._written(index.stage_id)
        index = index.model_copy(
            update={
                "state": "running",
                "rows_sha256": stage.rows_sha256,
                "parts_sha256": _sha256_of_parts(stage),
                "rows": stage.rows,
                "parts": len(stage.parts),
                "replaces": None,
            }
        )
        if old is None:
            self.job.index.write(index)
            return index, stage
        return self._decided(old, index, stage)

    def _written(self, stage_id: str) -> Stage:
        limits = SplitLimits.of(
            self.job.adapter.limits,
            max_rows=self.job.options.max_rows_per_batch,
            max_bytes=self.job.options.max_bytes_per_batch,
            max_tokens=self.job.options.max_tokens_per_batch,
        )
        rows = self.job.source.rows()
        claim_output(self.job)
        self.job.log.info(f"Reading {self.job.source.description}")
        with self.job.telemetry.span("stage") as span:
            stage = write_stage(
                self.job.stage_folder(stage_id),
                rows,
                limits=limits,
                check=self.job.source.check,
                unique_key=self.job.options.unique_key,
                log=self.job.log,
            )
            span.set(rows=stage.rows, bytes=stage.bytes, parts=len(stage.parts))
        parts = f"{len(stage.parts):,} {'part' if len(stage.parts) == 1 else 'parts'}"
        self.job.log.info(
            f"Staged {stage.rows:,} rows ({stage.bytes:,} bytes) in {parts}",
            rows=stage.rows,
            bytes=stage.bytes,
            parts=len(stage.parts),
            fingerprint=stage.rows_sha256[:_FINGERPRINT],
        )
        return stage

    def _decided(self, old: IndexRecord, new: IndexRecord, stage: Stage) -> tuple[IndexRecord, Stage | None]:
        changes = self._changes(old)
        if old.rows_sha256 != new.rows_sha256:
            changes.insert(0, _ROWS)
        if changes:
            return self._changed(old, new, stage, changes)
        if self.job.options.on_clear == "restart" and self._is_cleared_since(old):
            self.job.log.info("The task was cleared, its input is the same, and on_clear is restart: paying anew")
            return self._replaced(old, new, stage)
        return self._resumed(old, new, stage)

    def _is_cleared_since(self, old: IndexRecord) -> bool:
        attempt = self.job.attempt
        return attempt.was_cleared if old.max_tries == _NOT_RECORDED else old.max_tries != attempt.max_tries

    def _changed(
        self, old: IndexRecord, new: IndexRecord, stage: Stage, changes: list[str]
    ) -> tuple[IndexRecord, Stage | None]:
        what = " and ".join(changes)
        if self.job.options.on_changed_input == "fail":
            self.job.index.write(old)
            self.job.forget_stage(new.stage_id)
            raise BatchInputError(
                f"The {what} of this run changed since its last try, and on_changed_input is fail. Nothing was "
                "submitted or cancelled, and what was published stays. A retry would find the same: undo the change, "
                'or clear the task with on_changed_input="restart", which pays for new answers.'
            )
        self.job.log.warning(f"The {what} of this run changed since its last try: beginning anew")
        return self._replaced(old, new, stage)

    def _replaced(self, old: IndexRecord, new: IndexRecord, stage: Stage) -> tuple[IndexRecord, Stage | None]:
        cancel_old(self.job, old)  # of a published set too: what was given up at its deadline may still run
        new = new.model_copy(update={"earlier_usd": spent_on(self.job, old, self._manifest_of(old))})
        self.job.index.write(new)
        self.job.forget_stage(old.stage_id)
        if old.state == "running" and old.publish_id is not None and self._manifest_of(old) is None:
            self.job.forget_data(old.publish_id)
        return new, stage

    def _resumed(self, old: IndexRecord, new: IndexRecord, stage: Stage) -> tuple[IndexRecord, Stage | None]:
        """The same input: what was paid for stays, and only what was left undone is done."""
        index = old.model_copy(
            update={
                "max_tries": self.job.attempt.max_tries,
                "started_at": new.started_at,
                "settled": 0,
            }
        )
        old_stage = Stage.open(self.job.stage_folder(old.stage_id))
        is_published = self._manifest_of(old) is not None
        if is_published:
            left = old_stage and [part for part in old_stage.parts if state_of(self.job, index, part).lines is not None]
            if not left:
                self.job.log.info("The input is the same, and its result set stays: nothing is paid again")
                index = index.model_copy(update={"state": "published"})
                self.job.index.write(index)
                self.job.forget_stage(new.stage_id)
                return index, old_stage
            self.job.log.info(f"The input is the same: going on with {len(left):,} parts that lack answers")
        else:
            self.job.log.info("The input is the same: going on with what was paid for")
        if old_stage is None:
            self._check_cut(old, new)
        index = index.model_copy(
            update={
                "state": "running",
                "stage_id": old.stage_id if old_stage else new.stage_id,
                # What a process that died was about to publish is written over; what was published is left alone.
                "publish_id": old.publish_id if old.state == "running" and not is_published else None,
            }
        )
        self.job.index.write(index)
        if old_stage is not None:
            self.job.forget_stage(new.stage_id)
        return index, old_stage or stage

    def _staged_anew(self, index: IndexRecord) -> tuple[IndexRecord, Stage | None]:
        """A retry that finds the stage gone: the source may still give the same rows."""
        self.job.log.warning(
            f"The stage {self.job.stage_folder(index.stage_id).uri()} is gone: reading the source again"
        )
        stage_id = self.job.stage_id_of_try(index.generation)
        stage = self._written(stage_id)
        update = {
            "stage_id": stage_id,
            "settled": 0,
            "rows_sha256": stage.rows_sha256,
            "parts_sha256": _sha256_of_parts(stage),
        }
        new = index.model_copy(update=update)
        if new.rows_sha256 != index.rows_sha256 and count_submitted(self.job, index):
            raise StageGoneError(
                f"The stage of this run is gone, and its source gives other rows by now, so that the answers of "
                f"{count_submitted(self.job, index):,} batches, which were paid for, cannot be joined any more. They "
                "can be downloaded one by one (LLMBatchDownloadResultsOperator). Nothing was submitted now. A retry "
                'would find the same; clear the task with on_clear="restart" to pay for new answers.'
            )
        if new.rows_sha256 == index.rows_sha256:
            self._check_cut(index, new)
        self.job.index.write(new)
        return new, stage

    def _check_cut(self, old: IndexRecord, new: IndexRecord) -> None:
        if old.parts_sha256 != new.parts_sha256 and count_submitted(self.job, old):
            raise StageGoneError(
                "The stage of this run is gone, and its input is cut into other parts by now, or comes in another "
                "order, so that the answers of earlier batches, which were paid for, cannot be joined. Nothing was "
                "submitted now. Set the limits of a batch, and the order of a query, back to what they were and clear "
                'the task, or clear it with on_clear="restart" to pay for new answers.'
            )

    def _changes(self, index: IndexRecord) -> list[str]:
        source = self.job.source
        changes = ["model"] if index.model != source.model else []
        return changes + (["parameters"] if index.parameters_sha256 != source.parameters_sha256 else [])

    def _manifest_of(self, index: IndexRecord) -> Manifest | None:
        """The set that the index says is published, if nobody else has published there since."""
        manifest = read_manifest(self.job.output)
        return manifest if manifest is not None and manifest.publish_id == index.publish_id else None


def _index_of(manifest: Manifest) -> IndexRecord:
    """What a manifest tells of the run that published it."""
    return IndexRecord(
        state="published",
        generation=1,
        stage_id="gone",
        max_tries=_NOT_RECORDED,
        parameters_sha256=manifest.fingerprints.parameters,
        model=manifest.fingerprints.model,
        rows_sha256=manifest.fingerprints.rows,
        rows=manifest.rows,
        parts=len(manifest.parts),
        started_at=manifest.started_at,
        publish_id=manifest.publish_id,
    )


def _sha256_of_parts(stage: Stage) -> str:
    digest = hashlib.sha256()
    for part in stage.parts:
        digest.update(f"{part.number} {part.rows} {part.sha256}\n".encode())
    return digest.hexdigest()
