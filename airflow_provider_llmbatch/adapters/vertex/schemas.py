"""JSON schemas that Gemini can hold an answer to, and what becomes of the others.

``responseJsonSchema`` takes a subset of JSON Schema (``aiplatform_v1``, ``GenerationConfig.response_json_schema``). A
keyword outside it is refused, since an answer would not keep to it, unless the user gave it up; annotations, which
constrain nothing, are left out; ``const``, ``null`` in an ``enum`` and a ``$ref`` with neighbours are said in other
words that mean the same.
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
            raise LineRefused(f"has in its {self._param} a schema that{_at(path)} is no object", self._param)
        found: Schema = {}
        for keyword, value in schema.items():
            if keyword in _SUPPORTED:
                found[keyword] = self._value(keyword, value, f"{path}.{keyword}")
            elif keyword == "const" and _is_listable(value) and "enum" not in schema:
                found["enum"] = [value]
            elif keyword not in _ANNOTATIONS:
                self._unsupported(keyword, path)
        return self._with_lonely_ref(self._with_listable_enum(found, path), path)

    def _value(self, keyword: str, value: Any, path: str) -> Any:
        if keyword in _OF_SCHEMA:
            return value if isinstance(value, bool) else self.schema(value, path)
        if keyword in _OF_LIST and isinstance(value, list):
            return [self.schema(each, f"{path}[{index}]") for index, each in enumerate(value)]
        if keyword in _OF_NAMES and isinstance(value, dict):
            return {name: self._named(each, f"{path}.{name}") for name, each in value.items()}
        if keyword in _OF_LIST or keyword in _OF_NAMES:
            raise LineRefused(f"has in its {self._param} a schema that{_at(path)} is of the wrong type", self._param)
        return value

    def _named(self, schema: Any, path: str) -> Schema:
        return {} if schema is True else self.schema(schema, path)  # both allow anything

    def _with_listable_enum(self, schema: Schema, path: str) -> Schema:
        """Gemini lists texts and numbers only; ``null`` among them, as optional fields have it, becomes a branch."""
        values = schema.get("enum")
        if values is None or (isinstance(values, list) and all(map(_is_listable, values))):
            return schema
        kept = [value for value in values if value is not None] if isinstance(values, list) else []
        if not kept or not all(map(_is_listable, kept)):
            self._unsupported("enum", path, " of other things than texts and numbers")
            return {keyword: value for keyword, value in schema.items() if keyword != "enum"}
        types = schema.get("type", ["null"])
        listed = {**schema, "enum": kept}
        if not isinstance(types, list) or "null" not in types:
            return listed
        if "type" in schema:
            listed["type"] = [each for each in types if each != "null"]
        return {"anyOf": [listed, {"type": "null"}]}

    def _with_lonely_ref(self, schema: Schema, path: str) -> Schema:
        """Beside ``$ref`` only other ``$`` keywords may stand; an ``anyOf`` of one gives the others a place."""
        if "$ref" not in schema or all(keyword.startswith("$") for keyword in schema):
            return schema
        if "anyOf" in schema:
            raise LineRefused(
                f'has in its {self._param} a schema with "anyOf" beside "$ref"{_at(path)}, which Gemini does not take',
                self._param,
            )
        return {"anyOf": [{"$ref": schema.pop("$ref")}], **schema}

    def _unsupported(self, keyword: str, path: str, more: str = "") -> None:
        refuse_unless_dropped(
            f"{self._param}.{keyword}",
            f'has in its {self._param} a schema with "{keyword}"{more}{_at(path)}, to which Gemini holds no answer',
            self._drop_params,
        )


def _is_listable(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _at(path: str) -> str:
    return f" at {path.lstrip('.')}" if path else ""
