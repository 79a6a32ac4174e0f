"""JSON schemas that Gemini can hold an answer to, and what becomes of the others.

``responseJsonSchema`` takes a subset of JSON Schema (``aiplatform_v1``, ``GenerationConfig.response_json_schema``). A
keyword outside it is refused, since an answer would not keep to it, unless the user gave it up; annotations, which
constrain nothing, are left out; ``const`` and a ``$ref`` with neighbours are said in other words that mean the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused, refuse_unless_dropped

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_SUPPORTED: Final = frozenset(
    {
        *("$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems"),
        *("minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties"),
        *("required", "propertyOrdering"),
    }
)
_ANNOTATIONS: Final = frozenset(
    {"$schema", "$comment", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"}
)
_OF_SCHEMA: Final = frozenset({"items", "additionalProperties"})
_OF_LIST: Final = frozenset({"prefixItems", "anyOf", "oneOf"})
_OF_NAMES: Final = frozenset({"properties", "$defs"})

Schema = dict[str, Any]


def supported_schema(schema: Schema, param: str, drop_params: AbstractSet[str]) -> Schema:
    """The schema in the keywords that Gemini knows.

    :param param: Where it stands; a keyword is given up as ``<param>.<keyword>``.
    :raises LineRefused: It uses another keyword, or is not made like a schema.
    """
    return _Rewriting(param, drop_params).schema(schema, "")


class _Rewriting:
    def __init__(self, param: str, drop_params: AbstractSet[str]) -> None:
        self._param = param
        self._drop_params = drop_params

    def schema(self, schema: Any, path: str) -> Schema:
        if not isinstance(schema, dict):
            raise LineRefused(f"has a {self._param} whose schema{_at(path)} is no object", self._param)
        found: Schema = {}
        for keyword, value in schema.items():
            if keyword in _SUPPORTED:
                found[keyword] = self._value(keyword, value, f"{path}.{keyword}")
            elif keyword == "const" and _is_listable(value) and "enum" not in schema:
                found["enum"] = [value]
            elif keyword not in _ANNOTATIONS:
                self._unsupported(keyword, path)
        self._check_enum(found, path)
        return _with_lonely_ref(found)

    def _value(self, keyword: str, value: Any, path: str) -> Any:
        if keyword in _OF_SCHEMA:
            return value if isinstance(value, bool) else self.schema(value, path)
        if keyword in _OF_LIST and isinstance(value, list):
            return [self.schema(each, f"{path}[{index}]") for index, each in enumerate(value)]
        if keyword in _OF_NAMES and isinstance(value, dict):
            return {name: self._named(each, f"{path}.{name}") for name, each in value.items()}
        if keyword in _OF_LIST or keyword in _OF_NAMES:
            raise LineRefused(f"has a {self._param} whose schema{_at(path)} is of the wrong type", self._param)
        return value

    def _named(self, schema: Any, path: str) -> Schema:
        return {} if schema is True else self.schema(schema, path)  # both allow anything

    def _check_enum(self, schema: Schema, path: str) -> None:
        values = schema.get("enum")
        if values is not None and not (isinstance(values, list) and all(map(_is_listable, values))):
            self._unsupported("enum", path, " of other things than texts and numbers")
            del schema["enum"]

    def _unsupported(self, keyword: str, path: str, more: str = "") -> None:
        refuse_unless_dropped(
            f"{self._param}.{keyword}",
            f'has a {self._param} whose schema uses "{keyword}"{more}{_at(path)}, to which Gemini holds no answer',
            self._drop_params,
        )


def _with_lonely_ref(schema: Schema) -> Schema:
    """Beside ``$ref`` only other ``$`` keywords may stand; an ``anyOf`` of one gives the others a place."""
    if "$ref" not in schema or all(keyword.startswith("$") for keyword in schema):
        return schema
    if "anyOf" in schema:
        raise LineRefused('has a schema with "anyOf" beside "$ref", which Gemini does not take', "response_format")
    return {"anyOf": [{"$ref": schema.pop("$ref")}], **schema}


def _is_listable(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _at(path: str) -> str:
    return f" at {path.lstrip('.')}" if path else ""
