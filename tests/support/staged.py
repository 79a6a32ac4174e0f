"""Rows for a stage, and what lies in one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from airflow_provider_llmbatch.core.run.requests import Row
from airflow_provider_llmbatch.core.run.sources import Origin
from airflow_provider_llmbatch.core.run.stage import SplitLimits, Stage, write_stage
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_llmbatch.core.run.splitting import StagePart
    from airflow_provider_llmbatch.core.storage import Folder

CHAT = "/v1/chat/completions"
ORIGIN = Origin("in.jsonl", "Line")
ROOMY = SplitLimits(max_rows=1_000, max_bytes=1_000_000)


def made(number: int, *, model: str | None = "m", url: str = CHAT, text: str = "x", key: bytes | None = None) -> Row:
    body = json.dumps({"model": model, "text": text}).encode()
    return Row(url, model, body, b"source %d" % number, ORIGIN, number + 1, key, b'{"n":%d}' % number)


def staged(folder: Folder, rows: Iterable[Row], limits: SplitLimits = ROOMY, **options: Any) -> Stage:
    return write_stage(folder, rows, limits=limits, log=structlog.get_logger(), **options)


def lines(stage: Stage, part: StagePart, attempt: int = 1) -> list[Any]:
    with stage.requests(part, attempt) as stream:
        return [json.loads(line) for line in stream]


def refusal(folder: Folder, rows: Iterable[Row], limits: SplitLimits = ROOMY, **options: Any) -> str:
    with pytest.raises(BatchInputError) as refused:
        staged(folder, rows, limits, **options)
    assert (folder.local is None) or not folder.local.exists()
    return str(refused.value)
