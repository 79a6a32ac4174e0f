"""From a record of the input to the request that is sent for it: ready lines as they are, or a prompt per record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_provider_llmbatch.core.run.answer_schema import json_schema_format
from airflow_provider_llmbatch.core.run.answer_size import AnswerSize
from airflow_provider_llmbatch.core.run.prompts import Prompt, shown
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_provider_llmbatch.core.run.sources import Origin, Record

_WHERE_THE_PROMPT_GOES: Final = {
    "/chat/completions": "messages",
    "/responses": "input",
    "/completions": "prompt",
    "/embeddings": "input",
    "/moderations": "input",
    "/images/generations": "prompt",
}
NO_MODEL: Final = "no model is named: pass model=, or give the connection one"
TEXT_COLUMN: Final = "prompt"
"""The one column of a record that is only a text."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A request with what its answer will be joined to. All ``bytes`` are JSON.

    :param body: The request's body.
    :param source: What the fingerprint of the rows covers: the input itself, not what the template makes of it.
    :param origin: Where the record came from, for messages; ``number`` counts there from 1.
    :param key: The caller's key: a value, or an object if it has several columns.
    :param columns: The columns to keep, as an object.
    :param max_tokens: Output tokens that each answer may have; ``None`` if the request does not say.
    :param answers: That it asks for.
    :param is_text: Whether its body certainly holds nothing but texts.
    """

    url: str
    model: str | None
    body: bytes
    source: bytes
    origin: Origin
    number: int
    key: bytes | None = None
    columns: bytes | None = None
    max_tokens: int | None = None
    answers: int = 1
    is_text: bool = False

    def refused(self, problem: str) -> BatchInputError:
        """:param problem: Completes "Line 17 of reviews.jsonl …"."""
        return self.origin.refused(self.number, problem)


class _Ready(msgspec.Struct, gc=False):
    url: str
    method: str = "POST"
    # Never ``Raw | None``: msgspec takes null alone then.
    custom_id: msgspec.Raw = msgspec.Raw(b"null")
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Body(AnswerSize, gc=False):
    model: str | None = None
    stream: bool | None = None


_decode_ready = msgspec.json.Decoder(_Ready).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_size = msgspec.json.Decoder(AnswerSize).decode
_decode_columns = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True)
class RequestTemplate:
    """How records become requests.

    Without a prompt, records are ready OpenAI lines (``method``, ``url``, ``body``; their ``custom_id`` becomes the
    key), which go through as they are, or mere texts, each of which is a prompt.

    :param prompt: Text with ``{column}`` placeholders; ``{{`` and ``}}`` for braces.
    :param system: The same, for what stands before the prompt.
    :param model: Sent with each request that a prompt makes.
    :param parameters: More of the request's body, such as ``{"temperature": 0}``.
    :param response_schema: JSON schema of the answers.
    :param schema_name: What the provider is told that it is called.
    :param key: The column, or columns, that tell the caller's rows apart.
    :param columns: The columns to keep beside each answer: all by default, none for ``()``.
    :param endpoint: What to ask for.
    :raises BatchInputError: They cannot work together.
    """

    prompt: str | None = None
    system: str | None = None
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    response_schema: Mapping[str, Any] | None = None
    schema_name: str = "answer"
    key: str | Sequence[str] = ()
    columns: Sequence[str] | None = None
    endpoint: str = "/v1/chat/completions"

    def __post_init__(self) -> None:
        if self.prompt is not None:
            self._parts  # noqa: B018 - made now, so that what cannot work is told at once

    def rows(self, records: Iterable[Record]) -> Iterator[Row]:
        """The requests for records, in their order.

        :raises BatchInputError: For the first record that makes no request, with its place.
        """
        for record in records:
            try:
                yield self._row(record) if self.prompt is not None or record.is_text else self._ready(record)
            except msgspec.ValidationError as error:
                raise record.refused(f"is no {self._wanted}: {error}") from None
            except msgspec.DecodeError as error:
                raise record.refused(f"is not JSON: {error}") from None
            except RecursionError:
                raise record.refused("is nested too deeply to be read") from None
            except ValueError as error:
                raise record.refused(str(error)) from None

    @cached_property
    def parameters_sha256(self) -> str:
        """Of everything that decides what is asked for, but the rows and the model."""
        decisive = {
            "prompt": self.prompt,
            "system": self.system,
            "parameters": dict(self.parameters),
            "response_schema": None if self.response_schema is None else dict(self.response_schema),
            "schema_name": self.schema_name,
            "key": list(self.key_columns),
            "columns": None if self.columns is None else list(self.columns),
            "endpoint": self.endpoint,
        }
        return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()

    def _row(self, record: Record) -> Row:
        parts = self._parts
        values = _decode_columns(record.raw)
        system = parts.system.filled(values) if parts.system is not None else b""
        body = b"".join((parts.head, system, parts.middle, parts.prompt.filled(values), parts.tail))
        return Row(
            url=self.endpoint,
            model=self.model,
            body=body,
            source=record.raw if self.columns is None else _object(parts.used, values),
            origin=record.origin,
            number=record.number,
            key=self._key(values) if self.key_columns else None,
            columns=record.raw if self.columns is None else _object(self.columns, values) if self.columns else None,
            max_tokens=parts.max_tokens,
            answers=parts.answers,
            is_text=True,
        )

    def _ready(self, record: Record) -> Row:
        line = _decode_ready(record.raw)
        body = bytes(line.body)
        told = _decode_body(body)
        if line.method != "POST":
            raise ValueError(f'has the method "{line.method}"; the only one is "POST"')
        if told.stream:
            raise ValueError('has "stream": true, which a batch cannot do')
        if self._only_for_prompts:
            raise ValueError(f"is a ready request, in which {self._only_for_prompts}= has no place")
        key = bytes(line.custom_id)
        return Row(
            url=line.url,
            model=told.model,
            body=body,
            source=record.raw,
            origin=record.origin,
            number=record.number,
            key=None if key == b"null" else key,
            max_tokens=told.bound(),
            answers=told.answers(),
        )

    def _key(self, values: Mapping[str, msgspec.Raw]) -> bytes:
        for column in self.key_columns:
            if bytes(values.get(column, b"null")) == b"null":
                has = "has no value (null) in" if column in values else f"has {shown(values)}, but not"
                raise ValueError(f'{has} the column "{column}" of its key')
        if isinstance(self.key, str):
            return bytes(values[self.key])
        return _object(self.key_columns, values)

    @cached_property
    def key_columns(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def columns_needed(self) -> tuple[str, ...] | None:
        """The columns of the input that count; ``None``: all."""
        return None if self.prompt is None or self.columns is None else self._parts.used

    @cached_property
    def _only_for_prompts(self) -> str | None:
        """The first argument that would be left out of ready requests without a word."""
        names = ("system", "parameters", "key", "columns")
        return next((name for name in names if getattr(self, name) not in (None, (), [], {})), None)

    @property
    def _wanted(self) -> str:
        if self.prompt is not None:
            return "record"
        return "ready request, which it must be without a prompt= for its columns"

    @cached_property
    def _parts(self) -> _Parts:
        return _parts_of(self)


@dataclass(frozen=True)
class _Parts:
    """A request's body, cut where texts go into it.

    :param used: The columns that decide about the row, for its fingerprint.
    :param max_tokens: Of one answer; ``answers``: how many each request asks for.
    """

    head: bytes
    system: Prompt | None
    middle: bytes
    prompt: Prompt
    tail: bytes
    used: tuple[str, ...]
    max_tokens: int | None
    answers: int


def _parts_of(template: RequestTemplate) -> _Parts:
    # OpenAI's paths begin with /v1, and those of Azure's older guides do not.
    place = _WHERE_THE_PROMPT_GOES.get(template.endpoint.removeprefix("/v1"))
    if place is None:
        known = ", ".join(f"/v1{endpoint}" for endpoint in _WHERE_THE_PROMPT_GOES)
        raise _unusable(f"prompts make requests for {known}; for {template.endpoint} give ready lines instead")
    prompt = Prompt(f"{{{TEXT_COLUMN}}}" if template.prompt is None else template.prompt, name="prompt")
    system = None if template.system is None else Prompt(template.system, name="system text")
    if template.prompt is None and template.model is None:
        raise _unusable(NO_MODEL)
    more = _more(template, place)
    head = b"{" if template.model is None else b'{"model":%b,' % msgspec.json.encode(template.model)
    if place == "messages":
        if system is None:
            head += b'"messages":[{"role":"user","content":"'
        else:
            head += b'"messages":[{"role":"system","content":"'
        middle, tail = b'"},{"role":"user","content":"' if system else b"", b'"}]'
    elif system is not None:
        head += b'"instructions":"'
        middle, tail = b'","input":"', b'"'
    else:
        head += b'"%b":"' % place.encode()
        middle, tail = b"", b'"'
    used = dict.fromkeys(
        (*template.key_columns, *(system.columns if system else ()), *prompt.columns, *(template.columns or ()))
    )
    size = _decode_size(b"{%b}" % more.removeprefix(b","))
    return _Parts(head, system, middle, prompt, tail + more + b"}", tuple(used), size.bound(), size.answers())


def _more(template: RequestTemplate, place: str) -> bytes:
    """The rest of the body, from behind the texts to its closing brace."""
    is_chat, is_responses = place == "messages", template.endpoint.endswith("/responses")
    if template.system is not None and not (is_chat or is_responses):
        raise _unusable(f"system= has no place in a request for {template.endpoint}")
    parameters = dict(template.parameters)
    for name in {"model", "stream", place, "instructions" if template.system else "model"} & parameters.keys():
        raise _unusable(f"parameters may not hold {name!r}, which the operator's own arguments decide")
    if template.response_schema is not None:
        wanted = json_schema_format(template.response_schema, template.schema_name)
        if is_chat:
            _set(parameters, "response_format", {"type": "json_schema", "json_schema": wanted})
        elif is_responses:
            text = dict(parameters.get("text") or {})
            _set(text, "format", {"type": "json_schema", **wanted})
            parameters["text"] = text
        else:
            raise _unusable(f"response_format= has no place in a request for {template.endpoint}")
    try:
        encoded = msgspec.json.encode(parameters)
    except (TypeError, ValueError) as error:
        raise _unusable(f"parameters cannot be written as JSON ({error})") from None
    return b"," + encoded[1:-1] if parameters else b""


def _set(parameters: dict[str, Any], name: str, value: object) -> None:
    if name in parameters:
        raise _unusable(f"parameters may not hold {name!r} beside response_format=")
    parameters[name] = value


def _object(columns: Iterable[str], values: Mapping[str, msgspec.Raw]) -> bytes:
    try:
        return b"{%b}" % b",".join(b"%b:%b" % (msgspec.json.encode(name), bytes(values[name])) for name in columns)
    except KeyError as error:
        raise ValueError(f'has no column "{error.args[0]}", which is to be kept; it has {shown(values)}') from None


def _unusable(problem: str) -> BatchInputError:
    return BatchInputError(f"The requests cannot be made: {problem}. Nothing was uploaded or billed.")
