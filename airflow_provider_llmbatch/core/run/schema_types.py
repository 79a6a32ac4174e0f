"""A msgspec type that accepts nothing that a JSON schema refuses; it may refuse more, and most schemas have none.

Acceptance must be certain, since nothing else looks at the text then. So only keywords that are fully understood here
are mapped, and any other one leaves the whole schema to jsonschema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# They say something to people, or to the model, and nothing about the value.
_NOTES: Final = frozenset(
    {"$comment", "$defs", "default", "definitions", "deprecated", "description", "examples", "format", "title"}
)
_EXACT: Final = 2**53  # below it, each bound of a number is the same as float and as int


class _NotUnderstoodError(Exception):
    pass


def decoder_of(schema: Mapping[str, Any]) -> msgspec.json.Decoder[Any] | None:
    """A decoder that accepts only what fits; ``None`` if the schema says more than is understood here."""
    root = {key: value for key, value in schema.items() if key != "$schema"}
    try:
        return msgspec.json.Decoder(_Types(root).of(root))
    except (_NotUnderstoodError, TypeError, ValueError):  # msgspec refuses some unions
        return None
    except RecursionError:  # a reference that leads back to itself
        return None


class _Types:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def of(self, schema: object) -> Any:
        if schema is True:
            return Any
        if not isinstance(schema, dict):
            raise _NotUnderstoodError
        says = {key: value for key, value in schema.items() if key not in _NOTES}
        if not says:
            return Any
        if "$ref" in says:
            return self._referred(says)
        if "anyOf" in says:
            _only(says, "anyOf")
            return _union([None if one == {"type": "null"} else self.of(one) for one in says["anyOf"]])
        if "enum" in says or "const" in says:
            return _literal(says)
        return self._typed(says)

    def _referred(self, says: dict[str, Any]) -> Any:
        _only(says, "$ref")
        reference = says["$ref"]
        head, _, name = reference.rpartition("/")
        if head not in ("#/$defs", "#/definitions") or "~" in name or "%" in name:
            raise _NotUnderstoodError
        return self.of(self._root[head[2:]][name])

    def _typed(self, says: dict[str, Any]) -> Any:
        names = says.get("type")
        if isinstance(names, list):
            if "null" not in names or len(names) != 2:
                raise _NotUnderstoodError
            [name] = [each for each in names if each != "null"]
            return _union([self._typed({**says, "type": name}), None])
        makers: dict[object, Callable[[dict[str, Any]], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "integer": _integer,
            "number": _float,
            "boolean": _boolean,
        }
        if names not in makers:
            raise _NotUnderstoodError
        return makers[names](says)

    def _object(self, says: dict[str, Any]) -> Any:
        _only(says, "type", "properties", "required", "additionalProperties")
        properties, required = says.get("properties", {}), set(says.get("required", ()))
        closed = says.get("additionalProperties", True)
        if closed not in (True, False) or not required <= properties.keys():
            raise _NotUnderstoodError
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        names = {}
        for number, (name, schema) in enumerate(properties.items()):
            names[f"field_{number}"] = name
            kind = self.of(schema)
            if name in required:
                fields.append((f"field_{number}", kind))
            else:
                fields.append((f"field_{number}", _union([kind, msgspec.UnsetType]), msgspec.UNSET))
        return msgspec.defstruct(
            "Object", fields, rename=names, forbid_unknown_fields=closed is False, kw_only=True, gc=False
        )

    def _array(self, says: dict[str, Any]) -> Any:
        _only(says, "type", "items", "minItems", "maxItems")
        kind = cast("Any", list)[self.of(says.get("items", True))]
        return _bounded(kind, min_length=says.get("minItems"), max_length=says.get("maxItems"))


def _boolean(says: dict[str, Any]) -> Any:
    _only(says, "type")
    return bool


def _string(says: dict[str, Any]) -> Any:
    _only(says, "type", "minLength", "maxLength")
    return _bounded(str, min_length=says.get("minLength"), max_length=says.get("maxLength"))


def _integer(says: dict[str, Any]) -> Any:
    return _number(says, int)


def _float(says: dict[str, Any]) -> Any:
    return _number(says, float)


def _number(says: dict[str, Any], kind: type) -> Any:
    _only(says, "type", "minimum", "maximum")
    bounds = {"ge": says.get("minimum"), "le": says.get("maximum")}
    if any(bound is not None and abs(bound) >= _EXACT for bound in bounds.values()):
        raise _NotUnderstoodError
    return _bounded(kind, **bounds)


def _bounded(kind: Any, **bounds: Any) -> Any:
    found = {name: bound for name, bound in bounds.items() if bound is not None}
    return Annotated[kind, msgspec.Meta(**found)] if found else kind


def _literal(says: dict[str, Any]) -> Any:
    """Texts alone: JSON schema calls 1, 1.0 and (in old Pythons) true the same, and msgspec does not."""
    _only(says, "type", "enum", "const")
    values = says.get("enum", [says.get("const")])
    kinds = says.get("type", "string")
    allowed = {"string", "null"} if kinds in (["string", "null"], ["null", "string"]) else {"string"}
    if ("enum" in says and "const" in says) or (kinds != "string" and "null" not in allowed):
        raise _NotUnderstoodError
    if not all(isinstance(value, str) or (value is None and "null" in allowed) for value in values):
        raise _NotUnderstoodError
    return Literal[tuple(values)]


def _union(kinds: list[Any]) -> Any:
    return Any if Any in kinds else Union[tuple(kinds)]  # noqa: UP007 - of kinds that are known only now


def _only(says: dict[str, Any], *understood: str) -> None:
    if not says.keys() <= set(understood):
        raise _NotUnderstoodError
