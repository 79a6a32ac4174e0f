"""A real server takes every part of a stage, and answers each of its rows under its ordinal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from support.adapter_contract import unique_name
from support.batches import adapter_of, body_of, landed

from airflow_provider_llmbatch.core.run.requests import RequestTemplate
from airflow_provider_llmbatch.core.run.sources import FileSource, file_records
from airflow_provider_llmbatch.core.run.stage import SplitLimits, write_stage
from airflow_provider_llmbatch.core.storage import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from support.server import RunningServer


def test_every_row_of_every_part_is_answered_under_its_ordinal(echo_server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(f'{n},"say ""{n}"" é\n{{x}}"\n' for n in range(25)))
    template = RequestTemplate(
        "Echo: {text}",
        system="You are an echo.",
        model="m",
        key="id",
        response_schema={"type": "object", "properties": {"a": {"type": "string"}}},
    )
    answers: dict[str, Any] = {}
    with adapter_of(echo_server) as adapter:
        stage = write_stage(
            Folder(tmp_path / "stage", private=True),
            template.rows(file_records([FileSource(tmp_path / "in.csv", "in.csv")])),
            limits=SplitLimits.of(adapter.limits, max_rows=10),
            log=structlog.get_logger(),
        )
        for part in stage.parts:
            with stage.requests(part) as stream:
                file = adapter.create_file(stream, filename=unique_name())
            assert file.bytes == part.bytes
            _, results = landed(adapter, adapter.create_batch(file.id, endpoint=part.endpoint))
            answers |= {custom_id: body_of(result) for custom_id, result in results.items()}
    texts = {custom_id: body["choices"][0]["message"]["content"] for custom_id, body in answers.items()}
    assert texts == {str(n): f'Echo: say "{n}" é\n{{x}}' for n in range(25)}
