"""Texts with ``{column}`` placeholders, filled with a record's own JSON.

A column's text goes into the request as it stands in the record, escapes and all, without being decoded: that is exact,
and several times faster. What a column holds is never looked at for placeholders again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_QUOTE: Final = 0x22
_OPENING: Final = frozenset(b"[{")
_COLUMNS_SHOWN: Final = 20


class Prompt:
    """A text, taken apart once.

    :param text: ``{name}`` stands for a column, ``{{`` and ``}}`` for a brace.
    :param name: What to call the text in messages, such as ``prompt``.
    :raises BatchInputError: A brace stands alone.
    """

    def __init__(self, text: str, *, name: str) -> None:
        self._name = name
        pieces: list[tuple[bytes, str | None]] = []
        literal, end = "", 0
        for token in _TOKEN.finditer(text):
            literal += text[end : token.start()]
            end = token.end()
            if token[0] in ("{{", "}}"):
                literal += token[0][0]
            elif token[1] is None or not token[1].strip():
                raise BatchInputError(
                    f"The {name} has a {token[0]!r} at character {token.start() + 1:,} that encloses no column. "
                    "Nothing was uploaded or billed. Write {{ and }} for braces that belong to the text."
                )
            else:
                pieces.append((_inner(literal), token[1].strip()))
                literal = ""
        pieces.append((_inner(literal + text[end:]), None))
        self._pieces = tuple(pieces)
        self.columns = tuple(dict.fromkeys(column for _, column in pieces if column is not None))

    def filled(self, record: Mapping[str, msgspec.Raw]) -> bytes:
        """The text as the inside of a JSON string.

        :raises ValueError: A column is missing or null; the text completes "Line 17 of reviews.jsonl …".
        """
        parts: list[bytes | memoryview] = []
        for literal, column in self._pieces:
            parts.append(literal)
            if column is not None:
                try:
                    value = memoryview(record[column])
                except KeyError:
                    raise ValueError(self._missing(column, record)) from None
                # A string's inside is what is needed; anything else becomes its own JSON text.
                parts.append(value[1:-1] if value[0] == _QUOTE else self._text(column, bytes(value)))
        return b"".join(parts)

    def _text(self, column: str, value: bytes) -> bytes:
        if value == b"null":
            raise ValueError(f'has no value (null) in the column "{column}", which the {self._name} names')
        return _inner(value.decode()) if value[0] in _OPENING else value

    def _missing(self, column: str, record: Mapping[str, Any]) -> str:
        return (
            f'has no column "{column}", which the {self._name} names; it has {shown(record)}. Write {{{{ and }}}} for '
            "braces that belong to the text"
        )


def shown(columns: Mapping[str, Any]) -> str:
    """The names of a record's columns, for messages; never their values."""
    names = [f'"{name}"' for name in columns]
    more = len(names) - _COLUMNS_SHOWN
    return ", ".join(names[:_COLUMNS_SHOWN]) + (f" and {more} more" if more > 0 else "") or "none"


def _inner(text: str) -> bytes:
    return msgspec.json.encode(text)[1:-1]
