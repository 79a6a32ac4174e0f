"""From a line of OpenAI's to a line of Gemini's: pure, and complete in the sense that nothing vanishes.

Every parameter of a line is mapped, or the line is refused with its name; one that ``drop_params`` lists is left out,
whether or not it could be mapped. Some values say what Gemini does anyway, and are accepted: see ``parameters``.
Facts: ``aiplatform_v1``'s ``GenerateContentRequest``, and OpenAI's description of ``POST /chat/completions``.

Where the two differ, and a line is mapped all the same:

- instructions (``system``, ``developer``) come first, wherever they stood; neighbours of one role become one turn, but
  results of tools keep a turn of their own;
- an assistant's ``reasoning_content`` and ``annotations`` are left out, and its ``refusal`` is a text;
- the ``detail`` of images is one for all of them; ``auto`` goes along with any other;
- a schema of an answer holds always, ``strict`` or not; its ``name`` is left out. One of a function only describes, and
  goes as it is, unless the function is ``strict``: then calls are ``VALIDATED`` against it;
- ``parallel_tool_calls: true``, ``store: false``, ``service_tier: auto`` and the like say what Gemini does anyway;
  ``prompt_cache_key`` is a hint that nothing needs;
- ``reasoning_effort: none`` is the least that the model can do (``thinking``).

A hot path: one line takes some ten microseconds. The common parameters are fields of a struct; a line with any other
field is read again, slowly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw

from airflow_provider_llmbatch.adapters.vertex.extras import safety_settings, with_thinking_config
from airflow_provider_llmbatch.adapters.vertex.labels import (
    MOST_LABELS,
    id_of_labels,
    labels_of_id,
    labels_of_metadata,
)
from airflow_provider_llmbatch.adapters.vertex.messages import Conversation
from airflow_provider_llmbatch.adapters.vertex.parameters import ABSENT, Body, BodyReading
from airflow_provider_llmbatch.adapters.vertex.refused import NOTHING, LineRefused
from airflow_provider_llmbatch.adapters.vertex.speech import modalities_config
from airflow_provider_llmbatch.adapters.vertex.thinking import THINKING_BUDGETS, thinking_config
from airflow_provider_llmbatch.adapters.vertex.tools import ToolMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LineRefused", "MappingSettings", "RequestMapping"]

_URL: Final = "/v1/chat/completions"
_MOST_STOPS: Final = 5
_NULL: Final = b"null"


@dataclass(frozen=True)
class MappingSettings:
    """What a connection says about the mapping.

    :param drop_params: Parameters that are left out of every line, as the refusals name them: ``seed``,
        ``messages.name``, ``image_url.detail``, ``response_format.pattern``.
    :param thinking_budgets: Tokens for each ``reasoning_effort`` on models that take a budget (Gemini 2.5); an effort
        that is not named keeps Google's own.
    :param default_model: Of lines that name none, and of those in Vertex AI's own format, which cannot.
    """

    drop_params: frozenset[str] = NOTHING
    thinking_budgets: Mapping[str, int] = field(default_factory=lambda: THINKING_BUDGETS)
    default_model: str | None = None


class _Line(msgspec.Struct, gc=False):
    """Of either format; what tells them apart is which fields are there."""

    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: Raw = ABSENT
    request: Raw = ABSENT
    content: Raw = ABSENT
    instance: Raw = ABSENT


class _Native(msgspec.Struct, gc=False):
    """A request in Vertex's own format, as far as it must be looked into."""

    labels: dict[str, str | None] | None = None
    anthropic_version: Raw = ABSENT
    messages: Raw = ABSENT
    content: Raw = ABSENT


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_native = msgspec.json.Decoder(_Native).decode
_encode = msgspec.json.Encoder().encode

_SAME: Final = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("n", "candidateCount"),
    ("seed", "seed"),
    ("frequency_penalty", "frequencyPenalty"),
    ("presence_penalty", "presencePenalty"),
)

_OF_OTHERS: Final = re.compile(
    r"(?i)(?:publishers/(?!google/)|(?:anthropic|meta|openai|qwen|deepseek-ai|mistralai|intfloat)/"
    r"|(?:claude|llama|gpt-|chatgpt-|o[134](?:-|$)|qwen|deepseek|mistral|multilingual-e5))|.*embedding"
)


class RequestMapping:
    """Maps the lines of one file, in order."""

    def __init__(self, settings: MappingSettings) -> None:
        self._drop_params = settings.drop_params
        self._budgets = settings.thinking_budgets
        self._default_model = settings.default_model
        self._default_refused = _OF_OTHERS.match(settings.default_model or "") is not None
        self._tools = ToolMapping(settings.drop_params)
        self._read = BodyReading(settings.drop_params).body
        self._native_ids: set[str] = set()
        self._models: list[str | None] = []

    @property
    def model(self) -> str | None:
        """What the lines so far are to be run by: the model that they name, as they write it, else the default one."""
        return (self._models[0] if self._models else None) or self._default_model

    def line(self, line: bytes) -> bytes:
        """Gemini's line for one of OpenAI's; one in Vertex's own format comes back as it is.

        :param line: Without its line end.
        :raises LineRefused: Gemini cannot do what it asks for, or it is no request.
        """
        try:
            found = _decode_line(line)
            # The one place where formats are told apart.
            if found.method is not None or found.body:
                return self._of_openai(found)
            if found.request:
                if not line.isascii():
                    line.decode()  # msgspec does not look at what it leaves undecoded
                self._check_native(found)
                return line
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _not_a_request(error) from None
        except RecursionError:
            raise LineRefused("is nested too deeply to be read") from None
        if found.content or found.instance:
            raise LineRefused("is a request for embeddings in Vertex AI's own format, which comes later")
        raise LineRefused(
            "is neither OpenAI's format (custom_id, method, url, body) nor Vertex AI's ({\"request\": …})"
        )

    def _of_openai(self, line: _Line) -> bytes:
        if line.method != "POST":
            raise LineRefused(f'has the method "{line.method}"; the only one is "POST"', "method")
        if line.url != _URL:
            raise LineRefused(
                f'has the url "{line.url}"; on Vertex AI only {_URL} is there, and others come later', "url"
            )
        if line.custom_id is None:
            raise LineRefused("has no custom_id", "custom_id")
        body = self._read(line.body)
        self._check_model(body.model)
        return _encode({"request": self._request(line.custom_id, body)})

    def _check_model(self, model: str | None) -> None:
        if self._models:
            if model != self._models[0]:
                raise LineRefused(
                    f"asks for the model {_quoted(model)}, but the lines before it for {_quoted(self._models[0])}; a "
                    "batch has one",
                    "model",
                )
            return
        if not model:
            self._check_default_model()
        elif _OF_OTHERS.match(model):
            raise LineRefused(
                f'asks for the model "{model}", which is none of Gemini\'s for chat; others on Vertex AI come later',
                "model",
            )
        self._models.append(model)

    def _check_default_model(self) -> None:
        if self._default_refused:
            raise LineRefused(
                f'names no model, and the connection\'s default one is "{self._default_model}", which is none of '
                "Gemini's for chat; others on Vertex AI come later",
                "model",
            )

    def _request(self, custom_id: str, body: Body) -> dict[str, object]:
        conversation = Conversation(self._drop_params)
        for message in body.messages:
            conversation.add(message)
        conversation.finished()
        request: dict[str, object] = {"contents": conversation.contents}
        if conversation.system:
            request["systemInstruction"] = {"parts": conversation.system}
        tools = None
        if body.tools and bytes(body.tools) != _NULL and (tools := self._tools.tools(bytes(body.tools))):
            request["tools"] = tools.declared
        if config := self._tools.config(bytes(body.tool_choice), tools):
            request["toolConfig"] = config
        if generation := self._generation_config(body, conversation):
            request["generationConfig"] = generation
        if settings := safety_settings(body.extra_body):
            request["safetySettings"] = settings
        request["labels"] = self._labels(custom_id, body)
        return request

    def _generation_config(self, body: Body, conversation: Conversation) -> dict[str, object]:
        config: dict[str, object] = {}
        for ours, theirs in _SAME:
            if (value := getattr(body, ours)) is not None:
                config[theirs] = value
        if (most := _max_tokens(body)) is not None:
            config["maxOutputTokens"] = most
        if body.stop is not None:
            config["stopSequences"] = _stops(body.stop)
        if body.logprobs or body.top_logprobs is not None:
            config |= _logprobs(body)
        if body.response_format and (wanted := bytes(body.response_format)) != _NULL:
            config |= self._tools.response_format(wanted)
        if (body.reasoning_effort is not None or body.extra_body) and (thinking := self._thinking(body)):
            config["thinkingConfig"] = thinking
        if body.modalities or body.audio:
            config |= modalities_config(body.modalities or [], body.audio, self._drop_params)
        if conversation.resolution:
            config["mediaResolution"] = conversation.resolution
        return config

    def _thinking(self, body: Body) -> dict[str, object] | None:
        effort = body.reasoning_effort and thinking_config(
            body.reasoning_effort, self.model, self._budgets, self._drop_params
        )
        return with_thinking_config(effort or None, body.extra_body)

    def _labels(self, custom_id: str, body: Body) -> dict[str, str]:
        labels = labels_of_id(custom_id)
        if body.metadata:
            labels |= labels_of_metadata(body.metadata)
        if body.user is not None:
            if body.metadata and body.metadata.get("user", body.user) != body.user:
                raise LineRefused(
                    'has a "user", and another one in its metadata: both would be the label "user"', "user"
                )
            labels |= labels_of_metadata({"user": body.user}, "user")
        if len(labels) > MOST_LABELS:
            raise LineRefused(f"needs {len(labels)} labels for its custom_id and metadata; 64 are possible", "metadata")
        return labels

    def _check_native(self, line: _Line) -> None:
        request = _decode_native(line.request)
        if request.anthropic_version or request.messages:
            raise LineRefused("is a request to Claude in Vertex AI's own format, which comes later")
        if request.content:
            raise LineRefused("is a request for embeddings in Vertex AI's own format, which comes later")
        if not self._models:
            self._check_default_model()
        labels = request.labels or {}
        try:
            custom_id = id_of_labels(labels)
            is_legal = labels_of_id(custom_id).items() <= labels.items()
        except ValueError:
            custom_id, is_legal = "", False
        if not is_legal:
            raise LineRefused(
                "is in Vertex AI's own format and does not say whose answer it will be; add "
                '"labels": {"llmbatch_id": "…"} to its request, an id of its own of at most 63 characters of a-z, 0-9, '
                "_ and -",
                "llmbatch_id",
            )
        if custom_id in self._native_ids:
            raise LineRefused(f'has the label llmbatch_id "{custom_id}", which a line before it has too', "llmbatch_id")
        self._native_ids.add(custom_id)


def _max_tokens(body: Body) -> int | None:
    if body.max_tokens is None or body.max_completion_tokens in (None, body.max_tokens):
        return body.max_completion_tokens or body.max_tokens
    raise LineRefused("has max_tokens and max_completion_tokens that differ; Gemini has one limit", "max_tokens")


def _stops(stop: str | list[str]) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if len(stops) > _MOST_STOPS:
        raise LineRefused(f"has {len(stops)} texts to stop at; Gemini takes at most {_MOST_STOPS}", "stop")
    return stops


def _logprobs(body: Body) -> dict[str, object]:
    if not body.logprobs:
        raise LineRefused('has top_logprobs without "logprobs": true', "top_logprobs")
    return {"responseLogprobs": True, **({"logprobs": body.top_logprobs} if body.top_logprobs else {})}


def _not_a_request(error: msgspec.DecodeError | UnicodeDecodeError) -> LineRefused:
    if isinstance(error, msgspec.ValidationError):
        return LineRefused(f"is no batch request: {error}")
    return LineRefused(f"is not JSON: {error}")


def _quoted(model: str | None) -> str:
    return f'"{model}"' if model is not None else "the connection's default"
