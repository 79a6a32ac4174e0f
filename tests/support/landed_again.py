"""What was landed, told from its file alone."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.costs.tokens import Tokens, tokens_of_usage
from airflow_provider_llmbatch.core.run.answers import Landed, answers_name
from airflow_provider_llmbatch.models import Usage

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.storage import Folder


def landed_again(folder: Folder, part: int, attempt: int) -> Landed | None:
    """``None`` if there is no file."""
    name = answers_name(part, attempt)
    size = folder.size(name)
    if size is None:
        return None
    with folder.read(name) as stream:
        rows = [json.loads(line) for line in stream]
    tokens = Tokens()
    for row in rows:
        if row["usage"] is not None:
            tokens.add(tokens_of_usage(Usage.model_validate(row["usage"])))
    unresolved = array("Q", sorted(row["ordinal"] for row in rows if row["again"]))
    return Landed(dict(Counter(row["outcome"] for row in rows)), tokens.as_usage(), unresolved, size)
