"""The check of an input before any of it is uploaded: what Gemini cannot do, and how long its lines become."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_llmbatch.adapters.vertex.responses import custom_id_of

if TYPE_CHECKING:
    from airflow_provider_llmbatch.adapters.vertex.requests import RequestMapping

_ABSENT = msgspec.Raw(b"")


class _Shape(msgspec.Struct, gc=False):
    """What tells that a line is none of OpenAI's; which one it is instead is for the mapping to say."""

    method: str | None = None
    body: msgspec.Raw = _ABSENT
    request: msgspec.Raw = _ABSENT
    content: msgspec.Raw = _ABSENT
    instance: msgspec.Raw = _ABSENT


_decode_shape = msgspec.json.Decoder(_Shape).decode


class GeminiLines:
    """The lines of one input, as ``adapters.base.LineCheck`` has it."""

    def __init__(self, mapping: RequestMapping) -> None:
        self._mapping = mapping
        self._own: bytes | None = None

    def own_id(self, line: bytes) -> str | None:
        self._own = None
        try:
            shape = _decode_shape(line)
        except (msgspec.MsgspecError, RecursionError):
            return None  # OpenAI's rules say what is wrong with it
        if shape.method is not None or shape.body or not (shape.request or shape.content or shape.instance):
            return None
        self._own = self._mapping.line(line)
        return custom_id_of(line)

    def uploaded_bytes(self, line: bytes) -> int:
        mapped = self._own if self._own is not None else self._mapping.line(line)
        if self._mapping.model is None:
            raise ValueError(
                "names no model, and the connection has no default one (its field model), which a batch needs on "
                "Vertex AI"
            )
        return len(mapped) + 1
