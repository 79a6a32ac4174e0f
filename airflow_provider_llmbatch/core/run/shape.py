"""Whether an answer has the shape that was asked for, and what it holds then.

A text that fits a simple schema is accepted by a msgspec type, a hundred times faster than by jsonschema, which decides
on all others and says why one does not fit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from pydantic import TypeAdapter, ValidationError

from airflow_provider_llmbatch.core.run.schema_types import decoder_of
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

_FENCED: Final = re.compile(r"\s*```\w*[ \t]*\r?\n(.*)```\s*", re.DOTALL)
_REASON_CHARACTERS: Final = 500
_REASONS: Final = 3


class MisfitError(ValueError):
    """Raised when an answer does not fit; the text says where and why, and is a row's error message.

    :param code: ``no_text``, ``not_json``, ``schema_mismatch`` or ``validator_failed``.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason if len(reason) <= _REASON_CHARACTERS else reason[: _REASON_CHARACTERS - 1] + "…")
        self.code = code


class Shape(Protocol):
    """What the text of an answer must be."""

    def fit(self, text: str) -> bytes:
        """The object that a text holds, as JSON on one line.

        :raises MisfitError: It does not fit.
        """


def shape_of(response_format: type[BaseModel] | Mapping[str, Any]) -> Shape:
    """The shape of a Pydantic model, or of anything that Pydantic has an adapter for, or of a JSON schema.

    A model's defaults and conversions show in what an answer is parsed to; a schema leaves it as it came. JSON in a
    fence of Markdown, as models give it where nothing makes them keep to a schema, counts as if it stood alone.

    :raises BatchInputError: The schema is none, or refers to something outside itself.
    """
    return _UnfencedShape(
        JSONSchemaShape(response_format) if isinstance(response_format, dict) else PydanticShape(response_format)
    )


class _UnfencedShape:
    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def fit(self, text: str) -> bytes:
        try:
            return self._shape.fit(text)
        except MisfitError as misfit:
            fenced = _FENCED.fullmatch(text) if misfit.code == "not_json" else None
            if fenced is None:
                raise
        return self._shape.fit(fenced[1])


class PydanticShape:
    def __init__(self, model: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(model)

    def fit(self, text: str) -> bytes:
        try:
            return self._adapter.dump_json(self._adapter.validate_json(text), by_alias=True)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            code = "not_json" if found[0]["type"] == "json_invalid" else "schema_mismatch"
            reasons = [f"{_path(each['loc'])}: {each['msg']}" for each in found[:_REASONS]]
            more = len(found) - len(reasons)
            raise MisfitError(code, "; ".join(reasons) + (f"; and {more} more" if more else "")) from None
        except Exception as error:  # a validator of the user's own: its fault on one answer costs one row
            raise MisfitError("validator_failed", f"{type(error).__name__}: {error}") from error


class JSONSchemaShape:
    """:param schema: Draft 2020-12, unless its ``$schema`` names another; ``format`` is not checked."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        # Late, since it takes 60 ms to import and is needed only here.
        from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - slow to load
        from jsonschema.validators import Draft202012Validator, validator_for  # noqa: PLC0415 - slow to load
        from referencing import Registry  # noqa: PLC0415 - slow to load

        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise _no_schema(f"{_path(error.path)}: {error.message}") from None
        _check_references(schema)
        # An empty registry of its own, since the default one fetches what it does not know from the network.
        self._validator = kind(schema, registry=Registry())
        self._fast = decoder_of(schema)

    def fit(self, text: str) -> bytes:
        content = text.strip().encode()
        if self._fast is not None:
            try:
                self._fast.decode(content)
            except (msgspec.MsgspecError, RecursionError):
                self._check(content)
        else:
            self._check(content)
        return content if b"\n" not in content else msgspec.json.format(content, indent=-1)

    def _check(self, content: bytes) -> None:
        from jsonschema.exceptions import best_match  # noqa: PLC0415 - as above

        try:
            value = msgspec.json.decode(content)
            error = best_match(self._validator.iter_errors(value))
        except msgspec.MsgspecError as malformed:
            raise MisfitError("not_json", f"The text is not JSON: {malformed}") from None
        except RecursionError:
            raise MisfitError("not_json", "The text is nested too deeply to be read.") from None
        if error is not None:
            raise MisfitError("schema_mismatch", f"{_path(error.absolute_path)}: {error.message}")


def _check_references(schema: Mapping[str, Any]) -> None:
    from referencing import Resource  # noqa: PLC0415 - late, as above
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - slow to load
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY  # noqa: PLC0415 - slow to load

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = EMPTY_REGISTRY.with_resource("", resource).crawl().resolver(resource.id() or "")
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise _no_schema(f"$ref {reference!r} leads nowhere within the schema") from None


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _no_schema(problem: str) -> BatchInputError:
    return BatchInputError(
        f"response_format is no JSON schema that answers can be checked against ({problem}). Nothing was uploaded or "
        "billed. A retry would find the same: mend the schema."
    )


def _path(path: Any) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
