"""Whoever follows the manifest sees the old set or the new one, whole, wherever a publish was cut off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import structlog
from structlog.testing import capture_logs
from support.result_sets import FACTS, Staged, answer, entry, published, rows_of
from upath import UPath

from airflow_provider_llmbatch.core.run.answers import answers_name
from airflow_provider_llmbatch.core.run.manifest import read_manifest
from airflow_provider_llmbatch.core.run.publish import publish
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.stage import Stage


def one_row(text: str) -> dict[tuple[int, int], bytes]:
    return {(0, 1): answer(0, "succeeded", 1, text=text)}


def test_the_set_before_stays_until_the_next_publish(tmp_path: Path) -> None:
    staged = Staged([{0: b'"key":"a"'}])
    found = [published(tmp_path, staged, one_row(name), publish_id=name) for name in ("p-1", "p-2", "p-3")]
    assert [manifest.previous for manifest in found] == [None, "p-1", "p-2"]
    assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == ["p-2", "p-3"]
    assert [rows_of(tmp_path, manifest)[0]["text"] for manifest in found[1:]] == ["p-2", "p-3"]


def test_publishing_again_under_the_same_id_changes_nothing(tmp_path: Path) -> None:
    staged = Staged([{0: b'"key":"a"'}])
    first = published(tmp_path, staged, one_row("first"))
    again = published(tmp_path, staged, one_row("second"))
    assert (again, rows_of(tmp_path, again)[0]["text"]) == (first, "first")


class Undeletable(Folder):
    def child(self, name: str, *, private: bool | None = None) -> Folder:
        return Undeletable(cast("Path", super().child(name, private=private).local))

    def delete_tree(self) -> None:
        raise StorageError("not allowed")


def test_an_old_set_that_cannot_be_deleted_withholds_no_new_one(tmp_path: Path) -> None:
    staged, output = Staged([{0: b'"key":"a"'}]), Undeletable(tmp_path / "out")
    with capture_logs() as logs:
        for name in ("p-1", "p-2", "p-3"):
            log = structlog.get_logger()
            manifest = published(tmp_path, staged, one_row(name), publish_id=name, output=output, log=log)
    assert rows_of(tmp_path, manifest)[0]["text"] == "p-3"
    stays = f"{tmp_path}/out/data/p-1, which no manifest names any more, stays: not allowed"
    assert [line["event"] for line in logs] == [stays]


class Killed(BaseException):
    pass


class FragileFolder(Folder):
    """A folder that is cut off just before, or just after, its n-th change."""

    left = 0

    def _step(self) -> None:
        FragileFolder.left -= 1
        if FragileFolder.left == 0:
            raise Killed

    def child(self, name: str, *, private: bool | None = None) -> Folder:
        return FragileFolder(cast("Path", super().child(name, private=private).local))

    def write(self, name: str) -> Any:
        self._step()
        return super().write(name)

    def put(self, name: str, content: bytes) -> None:
        super().put(name, content)
        self._step()

    def delete_tree(self) -> None:
        self._step()
        super().delete_tree()
        self._step()


def test_a_kill_at_any_step_leaves_the_old_set_or_the_new_one(tmp_path: Path) -> None:
    output = Folder(tmp_path / "out")
    staged = Staged([{0: b'"key":"a"'}, {1: b'"key":"b"'}])

    def both(text: str) -> dict[tuple[int, int], bytes]:
        return {(part, 1): answer(part, "succeeded", 1, text=text) for part in (0, 1)}

    for name in ("p-0", "p-1"):
        published(tmp_path, staged, both(name), publish_id=name)
    seen = set()
    for step in range(1, 50):
        FragileFolder.left = step
        old, new = f"p-{step}", f"p-{step + 1}"
        try:
            published(tmp_path, staged, both(new), publish_id=new, output=FragileFolder(tmp_path / "out"))
        except Killed:
            manifest = cast("Manifest", read_manifest(output))
            seen.add(manifest.publish_id == new)
            assert [row["text"] for row in rows_of(tmp_path, manifest)] == [manifest.publish_id] * 2
            assert manifest.publish_id in (old, new)
            FragileFolder.left = 0
            manifest = published(tmp_path, staged, both(new), publish_id=new)
            assert [row["text"] for row in rows_of(tmp_path, manifest)] == [new] * 2
            assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == sorted([old, new])
        else:
            break
    assert (step, seen) == (9, {True, False})


# An object store.


def test_a_set_is_published_to_an_object_store_and_answers_come_from_one() -> None:
    root = UPath("memory://bucket/run")
    folder, output = Folder(root / "stage"), Folder(root / "out")
    folder.put(answers_name(0, 1), answer(1, "succeeded", 1, text="b") + answer(0, "missing", 1))
    folder.put(answers_name(0, 2), answer(0, "succeeded", 2, text="a"))
    attempts = {0: [entry(1), entry(2)]}
    for publish_id in ("p-1", "p-2", "p-3"):
        manifest = publish(
            cast("Stage", Staged([{0: b'"key":"x"', 1: b'"key":"y"'}])),
            output,
            answers=folder,
            attempts=attempts,
            facts=FACTS,
            publish_id=publish_id,
            published_at=1,
        )
    assert read_manifest(output) == manifest
    content = output.child("data").child("p-3").get("part-00000.jsonl")
    assert content is not None
    assert [json.loads(line)["text"] for line in content.splitlines()] == ["a", "b"]
    assert output.child("data").child("p-1").get("part-00000.jsonl") is None
    assert output.child("data").child("p-2").get("part-00000.jsonl") == content
