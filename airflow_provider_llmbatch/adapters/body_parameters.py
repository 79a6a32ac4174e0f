"""What OpenAI and Azure OpenAI know in the body of a request, by endpoint; other servers have parameters of their own.

From OpenAI's OpenAPI description 2.3.0 and Azure OpenAI's REST reference 2025-04-01-preview, without what a batch
cannot do: streams, and answers in the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "/v1/chat/completions": _names(
        """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
        metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
        prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
        stop store temperature tool_choice tools top_logprobs top_p user verbosity web_search_options"""
    ),
    "/v1/responses": _names(
        """context_management conversation include input instructions max_output_tokens max_tool_calls metadata model
        moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options
        prompt_cache_retention reasoning safety_identifier service_tier store temperature text tool_choice tools
        top_logprobs top_p truncation user"""
    ),
    "/v1/completions": _names(
        """best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop
        suffix temperature top_p user"""
    ),
    "/v1/embeddings": _names("dimensions encoding_format input model user"),
    "/v1/moderations": _names("input model"),
}

AZURE_PARAMETERS: Final = _names("data_sources user_security_context")
"""What Azure's chat has besides."""
