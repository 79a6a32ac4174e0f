"""What answers should look like: from a Pydantic model or a JSON schema to what the providers take.

OpenAI's own client has a function for this, but this package does without that client: importing it costs a second. The
rules are the same (its ``lib/_pydantic.py``, 3.54): objects are closed, all their properties required, a reference
beside other words is spelled out.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_NAME: Final = 64  # letters, digits, _ and - (OpenAI's description of ``response_format``)
_SCHEMAS: Final = frozenset({"items", "prefixItems", "anyOf", "allOf"})
_MAPS: Final = frozenset({"$defs", "definitions", "properties"})


def answer_schema(response_format: type[BaseModel] | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The JSON schema of a Pydantic model, or the one that was given, and a name for it that every provider takes.

    OpenAI's whole ``{"type": "json_schema", "json_schema": {…}}`` is taken too.

    :raises BatchInputError: It is neither.
    """
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        return response_format.model_json_schema(), _legal(response_format.__name__)
    if not isinstance(response_format, dict) or not response_format:
        raise BatchInputError(
            f"response_format is {type(response_format).__name__!r}, and not a Pydantic model or a JSON schema as a "
            "dict. Nothing was uploaded or billed."
        )
    wrapped = response_format.get("json_schema")
    if response_format.get("type") == "json_schema" and isinstance(wrapped, dict):
        schema = wrapped.get("schema")
        if isinstance(schema, dict):
            return schema, _legal(str(wrapped.get("name") or "answer"))
    return dict(response_format), _legal(str(response_format.get("title") or "answer"))


def json_schema_format(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``name``, ``schema`` and ``strict`` as OpenAI wants them.

    Not strict where an object's keys are free, which strict forbids; then only our own check of the answers holds.
    """
    closed = strict_schema(schema)
    if _is_open(closed):
        return {"name": name, "schema": dict(schema), "strict": False}
    return {"name": name, "schema": closed, "strict": True}


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which objects are closed and all their properties required.

    :raises BatchInputError: A reference leads nowhere.
    """
    root = copy.deepcopy(dict(schema))
    return cast("dict[str, Any]", _strict(root, root))


def _strict(node: Any, root: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_strict(child, root) for child in node]
    if not isinstance(node, dict):
        return node
    for word in _MAPS & node.keys():
        node[word] = {name: _strict(child, root) for name, child in node[word].items()}
    for word in _SCHEMAS & node.keys():
        node[word] = _strict(node[word], root)
    if node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    if "properties" in node:
        node["required"] = list(node["properties"])
    if len(node.get("allOf", ())) == 1:
        node.update(node.pop("allOf")[0])
    if node.get("default", ...) is None:
        del node["default"]
    if "$ref" in node and len(node) > 1:
        # The words beside a reference count, and those of what it names fill the gaps.
        found = copy.deepcopy(_referenced(node.pop("$ref"), root))
        return _strict({**found, **node}, root)
    return node


def _referenced(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    found: Any = root
    try:
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    except (KeyError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise BatchInputError(
            f"The JSON schema of response_format refers to {reference!r}, which is not in it. Nothing was uploaded or "
            "billed."
        )
    return found


def _is_open(node: Any) -> bool:
    if isinstance(node, list):
        return any(map(_is_open, node))
    if not isinstance(node, dict):
        return False
    return node.get("additionalProperties", False) is not False or any(map(_is_open, node.values()))


def _legal(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:_LONGEST_NAME]
