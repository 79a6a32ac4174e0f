"""Objects and lists as OpenAI's bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import Batch, File

_OURS: Final = {"provider", "provider_status"}  # fields of the package's models that OpenAI's objects lack


def shown(model: File | Batch) -> dict[str, object]:
    return model.model_dump(mode="json", exclude=_OURS)


def listing(items: list[File] | list[Batch], limit: int) -> dict[str, object]:
    """A page, of what may be one item more than the page takes."""
    page = items[:limit]
    return {
        "object": "list",
        "data": [shown(item) for item in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(items) > limit,
    }
